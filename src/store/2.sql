-- Who may not write at all, by an operator's word.
CREATE TABLE ban (
  app    TEXT NOT NULL,
  user   TEXT NOT NULL,
  since  INTEGER NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, user)
) WITHOUT ROWID;
