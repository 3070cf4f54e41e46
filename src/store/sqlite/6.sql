-- How many groups somebody has made. Somebody may have edited a body by hand.
CREATE INDEX chat_group_by_owner ON chat_group (app, CASE WHEN json_valid(body) THEN json_extract(body, '$.owner') END);
