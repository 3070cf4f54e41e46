-- What webhooks are still to be told, and what they were told in vain: one row an event and endpoint.
CREATE TABLE webhook (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, for what is under way is known by it
  endpoint    TEXT NOT NULL,     -- its URL, without user, password and query
  delivery_id TEXT NOT NULL,     -- the same each time it is told
  event_type  TEXT NOT NULL,
  created_at  INTEGER NOT NULL,  -- milliseconds since 1970
  since       INTEGER NOT NULL,  -- the same; its time runs from here: an operator may give it new time
  due         INTEGER,           -- not before, in milliseconds since 1970; NULL once given up
  attempts    INTEGER NOT NULL,  -- so far
  whole       INTEGER NOT NULL,  -- whether it failed with the endpoint as a whole
  error       TEXT,              -- why the last attempt failed
  head        TEXT NOT NULL,     -- JSON: what is posted, but for its member "data"
  data        INTEGER NOT NULL   -- which of webhook_data
);
CREATE INDEX webhook_due ON webhook (endpoint, due, seq) WHERE due IS NOT NULL;
CREATE INDEX webhook_given_up ON webhook (endpoint, seq) WHERE due IS NULL;
CREATE UNIQUE INDEX webhook_once ON webhook (delivery_id, endpoint);
CREATE INDEX webhook_by_data ON webhook (data);

-- The member "data" of what is posted: once for all members of a group.
CREATE TABLE webhook_data (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  endpoint TEXT NOT NULL,
  shared   TEXT,  -- what the copies of one message know it by
  data     TEXT NOT NULL
);
CREATE UNIQUE INDEX webhook_shared ON webhook_data (shared, endpoint) WHERE shared IS NOT NULL;

-- How much there is for each endpoint, kept by the triggers, whoever changes something.
CREATE TABLE webhook_count (
  endpoint TEXT PRIMARY KEY,
  waiting  INTEGER NOT NULL,
  given_up INTEGER NOT NULL,
  bytes    INTEGER NOT NULL  -- of head and data
) WITHOUT ROWID;
CREATE TRIGGER webhook_added AFTER INSERT ON webhook BEGIN
  INSERT INTO webhook_count VALUES (new.endpoint, new.due IS NOT NULL, new.due IS NULL, length(CAST(new.head AS BLOB)))
  ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting, given_up = given_up + excluded.given_up, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER webhook_changed AFTER UPDATE OF due ON webhook WHEN (old.due IS NULL) <> (new.due IS NULL) BEGIN
  UPDATE webhook_count SET waiting = waiting - (new.due IS NULL) + (old.due IS NULL), given_up = given_up + (new.due IS NULL) - (old.due IS NULL)
  WHERE endpoint = new.endpoint;
END;
CREATE TRIGGER webhook_gone AFTER DELETE ON webhook BEGIN
  UPDATE webhook_count SET waiting = waiting - (old.due IS NOT NULL), given_up = given_up - (old.due IS NULL), bytes = bytes - length(CAST(old.head AS BLOB))
  WHERE endpoint = old.endpoint;
  DELETE FROM webhook_data WHERE id = old.data AND NOT EXISTS (SELECT 1 FROM webhook WHERE data = old.data);
END;
CREATE TRIGGER webhook_data_added AFTER INSERT ON webhook_data BEGIN
  INSERT INTO webhook_count VALUES (new.endpoint, 0, 0, length(CAST(new.data AS BLOB)))
  ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER webhook_data_gone AFTER DELETE ON webhook_data BEGIN
  UPDATE webhook_count SET bytes = bytes - length(CAST(old.data AS BLOB)) WHERE endpoint = old.endpoint;
END;
