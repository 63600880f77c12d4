-- Our last place when a receipt could not be read; 0 for none: until it is acknowledged, the receipt
-- is asked for.
ALTER TABLE missing ADD COLUMN receipt INTEGER NOT NULL DEFAULT 0