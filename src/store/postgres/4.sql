-- When its holder last held nothing for other slots: whatever is not acknowledged came to the broker later; NULL: never.
ALTER TABLE observer ADD COLUMN IF NOT EXISTS session_cleared TIMESTAMPTZ;
UPDATE observer SET session_cleared = session_at;

-- Whose connection has lasted for too long without a word.
CREATE INDEX IF NOT EXISTS presence_by_since ON presence (since);
