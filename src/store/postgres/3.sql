-- How slots share the messages: `all` or `hash`; empty: nobody has served. It stays from then on.
ALTER TABLE observer ADD COLUMN IF NOT EXISTS sharing TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE observer SET sharing = 'all' WHERE name <> '' OR served;
