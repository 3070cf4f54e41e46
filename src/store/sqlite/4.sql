-- The delivery log: what is acknowledged to the broker and may not be published yet. A row goes when everything
-- made of its message is published.
CREATE TABLE delivery (
  message_id TEXT NOT NULL,     -- the id given to the message that came in
  number     INTEGER NOT NULL,  -- of the publish among those of its message
  came_on    BLOB,              -- the topic that the message came on; with number 0 alone
  purpose    INTEGER NOT NULL,  -- 0 copy, 1 copy in bulk, 2 notice, 3 to be decided on
  topic      TEXT NOT NULL,
  status     INTEGER,           -- the payload is the stored message with this status, or
  payload    BLOB,              -- the payload is this
  properties TEXT,              -- JSON: MQTT 5 user properties; NULL for none
  PRIMARY KEY (message_id, number)
) WITHOUT ROWID;

-- The same for what goes out in steps, a row for all recipients.
CREATE TABLE fan_out (
  message_id TEXT PRIMARY KEY,
  came_on    BLOB NOT NULL,
  work       TEXT NOT NULL  -- JSON: the whole of it
) WITHOUT ROWID;
-- How far it is confirmed: apart, so that a step does not write the whole again.
CREATE TABLE fan_out_position (
  message_id TEXT PRIMARY KEY,
  position   INTEGER NOT NULL
) WITHOUT ROWID;
