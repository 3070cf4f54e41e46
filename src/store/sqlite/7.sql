-- Names and ids become small. What was stored until now is moved by the upgrade, a part at a time;
-- then the tables called old_... go.
DROP VIEW inbox;
DROP INDEX message_by_id;
DROP INDEX timeline_by_peer;
DROP INDEX conversation_by_peer;
ALTER TABLE message RENAME TO old_message;
ALTER TABLE timeline RENAME TO old_timeline;
ALTER TABLE conversation RENAME TO old_conversation;
ALTER TABLE delivery RENAME TO old_delivery;
ALTER TABLE fan_out RENAME TO old_fan_out;
ALTER TABLE fan_out_position RENAME TO old_fan_out_position;

-- A number for each user and group of an app.
CREATE TABLE account (
  id   INTEGER PRIMARY KEY,
  app  TEXT NOT NULL,
  name TEXT NOT NULL,
  used INTEGER NOT NULL  -- no message far behind this position is from or to it
);
CREATE UNIQUE INDEX account_by_name ON account (name, app);

-- A number for each layout that a message has come in.
CREATE TABLE layout (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE  -- empty for what a service injected
);

-- One row a message, however many have a copy of it, in the order the observer took them. For people: the view message.
CREATE TABLE message_data (
  seq         INTEGER PRIMARY KEY,  -- never given twice: the last row is never deleted
  id          BLOB NOT NULL,        -- a UUID: its 16 bytes; any other: its text
  sender      INTEGER NOT NULL,     -- an account
  recipient   INTEGER NOT NULL,     -- the same: a user or a group
  layout      INTEGER NOT NULL,
  stored_at   INTEGER NOT NULL,     -- milliseconds since 1970; never less than the row before
  fingerprint INTEGER,              -- stands for topic and payload, to know a redelivery; NULL if there can be none
  written     INTEGER,              -- its timestamp less stored_at, where the members that this row tells are left out of the body
  body        TEXT NOT NULL         -- JSON, all but the status; with "written" only its beginning, without the observer's members
);
CREATE INDEX message_data_by_id ON message_data (id);

-- One row a copy: inbox has this message in its timeline with peer (accounts). Groups have one of their own, with themselves.
-- For people: the view timeline.
CREATE TABLE copy (
  inbox  INTEGER NOT NULL,
  peer   INTEGER NOT NULL,
  seq    INTEGER NOT NULL,  -- of the message
  status INTEGER NOT NULL,  -- 100 sent, 150 delivered, 200 received, 250 return receipt, 300 seen
  PRIMARY KEY (inbox, peer, seq)
) WITHOUT ROWID;
CREATE INDEX copy_in_order ON copy (inbox, seq);

-- A row for each two who have copies or a patch. A message does not change it: a copy behind "since" shows in the list, is new
-- and not archived. For people: the view conversation.
CREATE TABLE conversation_state (
  inbox     INTEGER NOT NULL,
  peer      INTEGER NOT NULL,
  since     INTEGER NOT NULL,  -- what follows holds unless there is a copy behind this position
  seq       INTEGER NOT NULL,  -- of the last message that shows there; 0 for none
  is_new    INTEGER NOT NULL,
  archived  INTEGER NOT NULL,  -- 0 where there is a copy behind "since"
  patch     TEXT,              -- JSON: what its owner has patched over it
  patch_seq INTEGER,           -- the last message there was in any timeline, when its owner last changed something
  PRIMARY KEY (inbox, peer)
) WITHOUT ROWID;
CREATE INDEX conversation_state_by_peer ON conversation_state (peer);
CREATE INDEX conversation_state_archived ON conversation_state (inbox) WHERE archived;

-- The delivery log: what is acknowledged to the broker and may not be published yet. A row goes when everything
-- made of its message is published.
CREATE TABLE delivery (
  id         BLOB NOT NULL,     -- the id given to the message that came in: 16 bytes
  number     INTEGER NOT NULL,  -- of the first publish of this row among those of its message
  count      INTEGER NOT NULL,  -- of its publishes
  came_on    BLOB,              -- the topic that the message came on; with number 0 alone
  purpose    INTEGER NOT NULL,  -- 0 copy, 1 copy in bulk, 2 notice, 3 to be decided on
  topics     BLOB NOT NULL,     -- one topic, or for each publish: status, space, topic, zero byte
  payload    BLOB,              -- of the one publish; NULL if each is the stored message with its status
  properties TEXT,              -- JSON: MQTT 5 user properties; NULL for none
  PRIMARY KEY (id, number)
) WITHOUT ROWID;

-- The same for what goes out in steps, a row for all recipients.
CREATE TABLE fan_out (
  id      BLOB PRIMARY KEY,
  came_on BLOB NOT NULL,
  work    TEXT NOT NULL  -- JSON: the whole of it
) WITHOUT ROWID;
-- How far it is confirmed: apart, so that a step does not write the whole again.
CREATE TABLE fan_out_position (
  id       BLOB PRIMARY KEY,
  position INTEGER NOT NULL
) WITHOUT ROWID;

-- For people: what there is, with names.
CREATE VIEW message AS
  SELECT seq, message_id, app, sender, recipient, layout, stored_at, fingerprint,
         CASE WHEN written IS NULL THEN body ELSE body || '"message_id":"' || message_id || '","sender":' || json_quote(sender) || ',"recipient":'
           || json_quote(recipient) || ',"app_id":' || json_quote(app) || ',"timestamp":' || (stored_at + written) || '}' END AS body
  FROM (SELECT m.seq, CASE typeof(m.id) WHEN 'blob' THEN lower(substr(hex(m.id), 1, 8) || '-' || substr(hex(m.id), 9, 4) || '-' || substr(hex(m.id), 13, 4)
                 || '-' || substr(hex(m.id), 17, 4) || '-' || substr(hex(m.id), 21)) ELSE m.id END AS message_id,
               r.app, s.name AS sender, r.name AS recipient, l.name AS layout, m.stored_at, m.fingerprint, m.written, m.body
        FROM message_data m JOIN account s ON s.id = m.sender JOIN account r ON r.id = m.recipient JOIN layout l ON l.id = m.layout);
CREATE VIEW timeline AS
  SELECT i.app, i.name AS inbox_of, t.seq, p.name AS convers_with, t.status
  FROM copy t JOIN account i ON i.id = t.inbox JOIN account p ON p.id = t.peer;
CREATE VIEW conversation AS
  SELECT i.app, i.name AS inbox_of, p.name AS convers_with, iif(c.newest > c.since, c.newest, c.seq) AS seq, iif(c.newest > c.since, 1, c.is_new) AS is_new,
         iif(c.newest > c.since, 0, c.archived) AS archived, c.patch, c.patch_seq
  FROM (SELECT *, (SELECT max(t.seq) FROM copy t WHERE t.inbox = c.inbox AND t.peer = c.peer) AS newest FROM conversation_state c) c
  JOIN account i ON i.id = c.inbox JOIN account p ON p.id = c.peer;
-- What each has in the inbox.
CREATE VIEW inbox AS
  SELECT t.app, t.inbox_of, t.convers_with, t.seq, t.status, m.message_id, m.sender,
         datetime(m.stored_at / 1000, 'unixepoch') AS stored, CASE WHEN json_valid(m.body) THEN json_extract(m.body, '$.text') END AS text, m.body
  FROM timeline t JOIN message m ON m.seq = t.seq;
