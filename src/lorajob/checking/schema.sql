-- One row for each clip that the job would read. The file is temporary, so memory stays flat.
CREATE TABLE clips (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    split TEXT NOT NULL,
    target TEXT NOT NULL,      -- train or test
    speaker INTEGER,           -- hash; NULL: unknown
    text TEXT NOT NULL,
    sentence INTEGER,          -- hash of the normalised text
    characters INTEGER,
    words INTEGER,
    traits INTEGER,
    scripts TEXT,
    mixed TEXT,
    tokens INTEGER,
    reason TEXT,               -- why it is dropped; NULL: it is kept
    detail TEXT,
    remarks TEXT,
    seconds REAL,
    speech REAL,               -- seconds of speech; in a quick check all seconds
    snr REAL,
    high REAL,
    lead REAL,
    trail REAL,
    content INTEGER            -- hash of the samples; in a quick check of the file's beginning
);
CREATE TABLE prints (n INTEGER PRIMARY KEY, bits BLOB NOT NULL);
CREATE TABLE marks (mark INTEGER, n INTEGER, frame INTEGER);
CREATE TABLE vocabulary (split TEXT, word INTEGER, PRIMARY KEY (split, word)) WITHOUT ROWID;
-- Segments of recordings, by the clip's id.
CREATE TABLE segments (id TEXT PRIMARY KEY, source INTEGER, start REAL, stop REAL) WITHOUT ROWID;
-- Clips with one sound. `n` is the one to leave out: the training clip, or the later one.
CREATE TABLE twins (n INTEGER, other INTEGER, how TEXT, PRIMARY KEY (n, other)) WITHOUT ROWID;
CREATE TABLE left_out (n INTEGER PRIMARY KEY, name TEXT);
