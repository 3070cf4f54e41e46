-- What one user has with one other: the history of a conversation, newest first.
CREATE INDEX timeline_by_peer ON timeline (app, inbox_of, convers_with, seq);
