-- What webhooks are still to be told, and what they were told in vain: one row an event and endpoint.
CREATE TABLE webhook (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,  -- oldest first; never given twice, for what is under way is known by it
  endpoint    TEXT NOT NULL,        -- its URL, without user, password and query
  delivery_id TEXT NOT NULL,        -- the same each time it is told
  event_type  TEXT NOT NULL,
  created_at  INTEGER NOT NULL,     -- milliseconds since 1970
  body        TEXT NOT NULL,        -- JSON, as it is posted
  attempts    INTEGER NOT NULL,     -- so far
  due         INTEGER,              -- not before, in milliseconds since 1970; NULL once given up
  error       TEXT                  -- why the last attempt failed
);
CREATE INDEX webhook_waiting ON webhook (endpoint, seq) WHERE due IS NOT NULL;
CREATE INDEX webhook_given_up ON webhook (endpoint, seq) WHERE due IS NULL;
CREATE UNIQUE INDEX webhook_once ON webhook (delivery_id, endpoint);
