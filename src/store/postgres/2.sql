-- Several slots: one row of `observer` each. `n` is the slot, from 0; `secret` is the same in all rows.
ALTER TABLE observer ADD COLUMN IF NOT EXISTS session_at TIMESTAMPTZ;     -- when the slot's session was last known to be at the broker; NULL: never
ALTER TABLE observer ADD COLUMN IF NOT EXISTS session_since TIMESTAMPTZ;  -- since when it gathers messages, at the latest; NULL: since its first time
ALTER TABLE observer ADD COLUMN IF NOT EXISTS served BOOLEAN NOT NULL DEFAULT false;  -- whether somebody has: the number of slots stays from then on
ALTER TABLE observer ADD COLUMN IF NOT EXISTS name TEXT COLLATE "C" NOT NULL DEFAULT '';  -- of the observers on it: part of their MQTT client identifiers; empty: nobody has served
UPDATE observer SET served = token > 0;

-- The processes that share the slots among them.
CREATE TABLE IF NOT EXISTS observer_process (
  id      TEXT COLLATE "C" PRIMARY KEY,
  expires TIMESTAMPTZ NOT NULL  -- by the clock of the database
);

-- Whose holder publishes it. With several slots, `message.seq` and `webhook.seq` are the slot modulo 16.
ALTER TABLE delivery ADD COLUMN IF NOT EXISTS slot BIGINT NOT NULL DEFAULT 0;
ALTER TABLE fan_out ADD COLUMN IF NOT EXISTS slot BIGINT NOT NULL DEFAULT 0;
CREATE INDEX IF NOT EXISTS delivery_by_slot ON delivery (slot, message_id);
CREATE INDEX IF NOT EXISTS fan_out_by_slot ON fan_out (slot, message_id);

-- Which slot redelivers.
ALTER TABLE absence ADD COLUMN IF NOT EXISTS slot BIGINT NOT NULL DEFAULT 0;
