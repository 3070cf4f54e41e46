-- Which process serves, how far it got, and what it shares with the next one: one row.
CREATE TABLE observer (
  n            BIGINT PRIMARY KEY,           -- 0
  token        BIGINT NOT NULL,              -- rises with each change of the holder: what an earlier one writes is refused
  holder       TEXT COLLATE "C" NOT NULL,    -- who has the lease, for people
  expires      TIMESTAMPTZ NOT NULL,         -- by the clock of the database
  batch        BIGINT NOT NULL,              -- of the last transaction: tells whether one was committed whose answer was lost
  last_seq     BIGINT NOT NULL,              -- the last position of the log that was taken
  last_event   BIGINT NOT NULL,              -- the last number in the outbox that was given
  acknowledged TEXT COLLATE "C" NOT NULL,    -- the last message acknowledged to the broker: later ones may come again
  bytes        BIGINT NOT NULL,              -- about how much messages and their copies take
  secret       TEXT COLLATE "C" NOT NULL     -- the random part of the MQTT client identifiers
);

-- One row a message, however many have a copy of it, in the order the observer took them.
CREATE TABLE message (
  seq         BIGINT PRIMARY KEY,        -- never given twice
  message_id  TEXT COLLATE "C" NOT NULL,
  app         TEXT COLLATE "C" NOT NULL,
  sender      TEXT COLLATE "C" NOT NULL,
  recipient   TEXT COLLATE "C" NOT NULL, -- a user or a group
  layout      TEXT COLLATE "C" NOT NULL, -- the one it came in; empty for what a service injected
  stored_at   BIGINT NOT NULL,           -- milliseconds since 1970; never less than the row before
  fingerprint BIGINT,                    -- stands for topic and payload, to know a redelivery; NULL if there can be none
  body        TEXT COLLATE "C" NOT NULL  -- JSON, all but the status
);
CREATE INDEX message_by_id ON message (message_id);

-- One row a copy: inbox_of has this message in the timeline with convers_with. Groups have one of their own, with themselves.
CREATE TABLE timeline (
  app          TEXT COLLATE "C" NOT NULL,
  inbox_of     TEXT COLLATE "C" NOT NULL,
  seq          BIGINT NOT NULL,  -- of the message
  convers_with TEXT COLLATE "C" NOT NULL,
  status       BIGINT NOT NULL,  -- 100 sent, 150 delivered, 200 received, 250 return receipt, 300 seen
  PRIMARY KEY (app, inbox_of, seq, convers_with)
);
CREATE INDEX timeline_by_peer ON timeline (app, inbox_of, convers_with, seq);

-- What stands in a user's list of conversations.
CREATE TABLE conversation (
  app          TEXT COLLATE "C" NOT NULL,
  inbox_of     TEXT COLLATE "C" NOT NULL,
  convers_with TEXT COLLATE "C" NOT NULL,
  seq          BIGINT NOT NULL,    -- of the last message that shows there; 0 for none
  is_new       BOOLEAN NOT NULL,
  archived     BOOLEAN NOT NULL,
  patch        TEXT COLLATE "C",   -- JSON: what its owner has patched over it
  patch_seq    BIGINT,             -- the last message there was in any timeline, when the owner last changed something
  PRIMARY KEY (app, inbox_of, convers_with)
);
CREATE INDEX conversation_by_peer ON conversation (app, convers_with);

CREATE TABLE chat_group (
  app      TEXT COLLATE "C" NOT NULL,
  group_id TEXT COLLATE "C" NOT NULL,
  body     TEXT COLLATE "C" NOT NULL,  -- JSON, with its members
  owner    TEXT COLLATE "C",           -- as the body says
  PRIMARY KEY (app, group_id)
);
CREATE INDEX chat_group_by_owner ON chat_group (app, owner);

-- inbox_of does not want to hear other.
CREATE TABLE block (
  app      TEXT COLLATE "C" NOT NULL,
  other    TEXT COLLATE "C" NOT NULL,
  inbox_of TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (app, other, inbox_of)
);
CREATE INDEX block_by_owner ON block (app, inbox_of);

-- Who may not write at all, by an operator's word.
CREATE TABLE ban (
  app     TEXT COLLATE "C" NOT NULL,
  user_id TEXT COLLATE "C" NOT NULL,
  since   BIGINT NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, user_id)
);

-- The clients that are there.
CREATE TABLE presence (
  app       TEXT COLLATE "C" NOT NULL,
  user_id   TEXT COLLATE "C" NOT NULL,
  client_id TEXT COLLATE "C" NOT NULL,
  since     BIGINT NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, user_id, client_id)
);

-- Behind which message a user has missed what came: until the presence event that made up for it is acknowledged.
CREATE TABLE absence (
  app            TEXT COLLATE "C" NOT NULL,
  user_id        TEXT COLLATE "C" NOT NULL,
  seq            BIGINT NOT NULL,
  redelivered_by TEXT COLLATE "C",  -- its message id; 'done' if nothing will acknowledge it
  PRIMARY KEY (app, user_id)
);

-- The devices and browsers that users want to be notified on: each belongs to who registered it last.
CREATE TABLE instance (
  app         TEXT COLLATE "C" NOT NULL,
  instance_id TEXT COLLATE "C" NOT NULL,
  user_id     TEXT COLLATE "C" NOT NULL,
  body        TEXT COLLATE "C" NOT NULL,  -- JSON: what the client says of itself
  since       BIGINT NOT NULL,            -- milliseconds since 1970
  PRIMARY KEY (app, instance_id)
);
CREATE INDEX instance_by_user ON instance (app, user_id, since);

-- The delivery log: what is acknowledged to the broker and may not be published yet. A row goes when everything
-- made of its message is published.
CREATE TABLE delivery (
  message_id TEXT COLLATE "C" NOT NULL,  -- the id given to the message that came in
  number     BIGINT NOT NULL,            -- of the publish among those of its message
  came_on    BYTEA,                      -- the topic that the message came on; with number 0 alone
  purpose    BIGINT NOT NULL,            -- 0 copy, 1 copy in bulk, 2 notice, 3 to be decided on
  topic      TEXT COLLATE "C" NOT NULL,
  status     BIGINT,                     -- the payload is the stored message with this status, or
  payload    BYTEA,                      -- the payload is this
  properties TEXT COLLATE "C",           -- JSON: MQTT 5 user properties; NULL for none
  PRIMARY KEY (message_id, number)
);

-- The same for what goes out in steps, a row for all recipients.
CREATE TABLE fan_out (
  message_id TEXT COLLATE "C" PRIMARY KEY,
  came_on    BYTEA NOT NULL,
  work       TEXT COLLATE "C" NOT NULL  -- JSON: the whole of it
);
-- How far it is confirmed: apart, so that a step does not write the whole again.
CREATE TABLE fan_out_position (
  message_id TEXT COLLATE "C" PRIMARY KEY,
  position   BIGINT NOT NULL
);

-- What webhooks are still to be told, and what they were told in vain: one row an event and endpoint.
CREATE TABLE webhook (
  seq         BIGINT PRIMARY KEY,         -- never given twice, for what is under way is known by it
  endpoint    TEXT COLLATE "C" NOT NULL,  -- its URL, without user, password and query
  delivery_id TEXT COLLATE "C" NOT NULL,  -- the same each time it is told
  event_type  TEXT COLLATE "C" NOT NULL,
  created_at  BIGINT NOT NULL,            -- milliseconds since 1970
  since       BIGINT NOT NULL,            -- the same; its time runs from here: an operator may give it new time
  due         BIGINT,                     -- not before, in milliseconds since 1970; NULL once given up
  attempts    BIGINT NOT NULL,            -- so far
  whole       BOOLEAN NOT NULL,           -- whether it failed with the endpoint as a whole
  error       TEXT COLLATE "C",           -- why the last attempt failed
  head        TEXT COLLATE "C" NOT NULL,  -- JSON: what is posted, but for its member "data"
  data        BIGINT NOT NULL             -- which of webhook_data
);
CREATE INDEX webhook_due ON webhook (endpoint, due, seq) WHERE due IS NOT NULL;
CREATE INDEX webhook_given_up ON webhook (endpoint, seq) WHERE due IS NULL;
CREATE UNIQUE INDEX webhook_once ON webhook (delivery_id, endpoint);
CREATE INDEX webhook_by_data ON webhook (data);

-- The member "data" of what is posted: once for all members of a group.
CREATE TABLE webhook_data (
  id       BIGINT PRIMARY KEY,
  endpoint TEXT COLLATE "C" NOT NULL,
  shared   TEXT COLLATE "C",  -- what the copies of one message know it by
  data     TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX webhook_shared ON webhook_data (shared, endpoint) WHERE shared IS NOT NULL;

-- How much there is for each endpoint.
CREATE TABLE webhook_count (
  endpoint TEXT COLLATE "C" PRIMARY KEY,
  waiting  BIGINT NOT NULL,
  given_up BIGINT NOT NULL,
  bytes    BIGINT NOT NULL  -- of head and data
);

-- For people: what each has in the inbox.
CREATE VIEW inbox AS
  SELECT t.app, t.inbox_of, t.convers_with, t.seq, t.status, m.message_id, m.sender,
         to_timestamp(m.stored_at / 1000.0) AS stored, m.body
  FROM timeline t JOIN message m ON m.seq = t.seq;
