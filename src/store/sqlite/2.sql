-- Who may not write at all, by an operator's word.
CREATE TABLE ban (
  app    TEXT NOT NULL,
  user   TEXT NOT NULL,
  since  INTEGER NOT NULL,  -- milliseconds since 1970
  PRIMARY KEY (app, user)
) WITHOUT ROWID;

-- How many somebody blocks.
CREATE INDEX block_by_owner ON block (app, inbox_of);
