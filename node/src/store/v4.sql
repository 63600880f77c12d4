-- The last place that could not be read: until the stream has got there, it is asked for.
ALTER TABLE missing ADD COLUMN stream INTEGER NOT NULL DEFAULT 0;
ALTER TABLE missing ADD COLUMN seq INTEGER NOT NULL DEFAULT 0
