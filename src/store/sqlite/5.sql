-- What one user has with one other: the history of a conversation, newest first.
CREATE INDEX timeline_by_peer ON timeline (app, inbox_of, convers_with, seq);
-- Who has a conversation with somebody.
CREATE INDEX conversation_by_peer ON conversation (app, convers_with);

-- The devices and browsers that users want to be notified on: each belongs to who registered it last.
CREATE TABLE instance (
  app         TEXT NOT NULL,
  instance_id TEXT NOT NULL,
  user        TEXT NOT NULL,
  body        TEXT NOT NULL,     -- JSON: what the client says of itself
  since       INTEGER NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, instance_id)
) WITHOUT ROWID;
CREATE INDEX instance_by_user ON instance (app, user, since);
