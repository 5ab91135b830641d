ALTER TABLE accounts ADD COLUMN region CHAR(2);
UPDATE accounts SET region = "eu";
