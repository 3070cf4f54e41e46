-- One row a message, however many have a copy of it, in the order the observer took them.
CREATE TABLE message (
  seq         INTEGER PRIMARY KEY,  -- never given twice: the last row is never deleted
  message_id  TEXT NOT NULL,
  app         TEXT NOT NULL,
  sender      TEXT NOT NULL,
  recipient   TEXT NOT NULL,     -- a user or a group
  layout      TEXT NOT NULL,     -- the one it came in; empty for what a service injected
  stored_at   INTEGER NOT NULL,  -- milliseconds since 1970; never less than the row before
  fingerprint INTEGER,           -- stands for topic and payload, to know a redelivery; NULL if there can be none
  body        TEXT NOT NULL      -- JSON, all but the status
);
CREATE INDEX message_by_id ON message (message_id);

-- One row a copy: inbox_of has this message in his timeline with convers_with. Groups have one of their own, with themselves.
CREATE TABLE timeline (
  app          TEXT NOT NULL,
  inbox_of     TEXT NOT NULL,
  seq          INTEGER NOT NULL,  -- of the message
  convers_with TEXT NOT NULL,
  status       INTEGER NOT NULL,  -- 100 sent, 150 delivered, 200 received, 250 return receipt, 300 seen
  PRIMARY KEY (app, inbox_of, seq, convers_with)
) WITHOUT ROWID;

-- What stands in a user's list of conversations.
CREATE TABLE conversation (
  app          TEXT NOT NULL,
  inbox_of     TEXT NOT NULL,
  convers_with TEXT NOT NULL,
  seq          INTEGER NOT NULL,  -- of the last message that shows there; 0 for none
  is_new       INTEGER NOT NULL,
  archived     INTEGER NOT NULL,
  patch        TEXT,              -- JSON: what its owner has patched over it
  patch_seq    INTEGER,           -- the last message there was in any timeline, when he last changed something
  PRIMARY KEY (app, inbox_of, convers_with)
) WITHOUT ROWID;

CREATE TABLE chat_group (
  app      TEXT NOT NULL,
  group_id TEXT NOT NULL,
  body     TEXT NOT NULL,  -- JSON, with its members
  PRIMARY KEY (app, group_id)
) WITHOUT ROWID;

-- inbox_of does not want to hear other.
CREATE TABLE block (
  app      TEXT NOT NULL,
  other    TEXT NOT NULL,
  inbox_of TEXT NOT NULL,
  PRIMARY KEY (app, other, inbox_of)
) WITHOUT ROWID;

-- The clients that are there.
CREATE TABLE presence (
  app       TEXT NOT NULL,
  user      TEXT NOT NULL,
  client_id TEXT NOT NULL,
  since     INTEGER NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, user, client_id)
) WITHOUT ROWID;

-- Behind which message a user has missed what came: until the presence event that made up for it is acknowledged.
CREATE TABLE absence (
  app            TEXT NOT NULL,
  user           TEXT NOT NULL,
  seq            INTEGER NOT NULL,
  redelivered_by TEXT,  -- its message id; 'done' if nothing will acknowledge it
  PRIMARY KEY (app, user)
) WITHOUT ROWID;

CREATE TABLE state (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;
-- The last message acknowledged to the broker: later ones may come again.
INSERT INTO state VALUES ('acknowledged', '');

-- For people: what each has in his inbox.
CREATE VIEW inbox AS
  SELECT t.app, t.inbox_of, t.convers_with, t.seq, t.status, m.message_id, m.sender,
         datetime(m.stored_at / 1000, 'unixepoch') AS stored, CASE WHEN json_valid(m.body) THEN json_extract(m.body, '$.text') END AS text, m.body
  FROM timeline t JOIN message m ON m.seq = t.seq;
