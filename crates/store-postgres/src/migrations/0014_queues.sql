-- What waits for each client, so that nobody's messages are looked for among another's, and what is past its time.
CREATE INDEX messages_of ON messages (client, next_at, id) WHERE state = 'waiting';
CREATE INDEX messages_expire ON messages (give_up_at) WHERE state = 'waiting';
