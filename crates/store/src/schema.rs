//! The tables, and how those of earlier versions become those of this one.

use std::ops::RangeInclusive;

use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Kind};

/// Says in the file's header that it is a history of Blackstart: `BKST`.
pub(crate) const APPLICATION: u32 = 0x424b_5354;

/// The step from each version to the next; the first begins with nothing. A step that was released is never changed.
///
/// Numbers stand for texts (`word`), for programs by who started them (`lineage`; 0 is one that is not known) and for
/// destinations. Times are microseconds since the epoch. Rows of one run lie together: what is asked of a history is
/// asked of whole runs.
pub(crate) const STEPS: &[&str] = &[
    "
    CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE lineage (
        id INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        exe INTEGER NOT NULL,
        UNIQUE (parent, exe)
    ) STRICT;
    CREATE TABLE destination (
        id INTEGER PRIMARY KEY,
        name INTEGER NOT NULL,
        address BLOB NOT NULL,
        port INTEGER NOT NULL,
        protocol INTEGER NOT NULL,
        UNIQUE (address, port, protocol, name)
    ) STRICT;
    CREATE TABLE run (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        service INTEGER,
        host INTEGER NOT NULL,
        command INTEGER NOT NULL,
        started INTEGER NOT NULL,
        ended INTEGER,
        exit_code INTEGER,
        mode INTEGER NOT NULL,
        guarded INTEGER NOT NULL,
        drill INTEGER NOT NULL,
        break_glass INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        lost INTEGER NOT NULL,
        destinations INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        would_be_refused INTEGER NOT NULL,
        findings INTEGER NOT NULL,
        lacks INTEGER NOT NULL,
        surroundings INTEGER NOT NULL,
        row_count INTEGER NOT NULL,
        report_bytes INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX run_by_start ON run (started);
    CREATE INDEX run_by_service ON run (service, started);
    CREATE TABLE report (
        run INTEGER NOT NULL,
        part INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        UNIQUE (run, part)
    ) STRICT;
    CREATE TABLE program (run INTEGER, exe INTEGER, PRIMARY KEY (run, exe)) STRICT, WITHOUT ROWID;
    CREATE TABLE lookup (
        run INTEGER,
        seq INTEGER,
        name INTEGER NOT NULL,
        type INTEGER NOT NULL,
        lineage INTEGER NOT NULL,
        subject INTEGER,
        verdict INTEGER NOT NULL,
        rule INTEGER NOT NULL,
        queries INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        answer INTEGER NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE flow (
        run INTEGER,
        seq INTEGER,
        destination INTEGER NOT NULL,
        lineage INTEGER NOT NULL,
        subject INTEGER,
        verdict INTEGER NOT NULL,
        rule INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        attribution INTEGER NOT NULL,
        probe INTEGER NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE contact (
        run INTEGER,
        seq INTEGER,
        path INTEGER NOT NULL,
        lineage INTEGER NOT NULL,
        subject INTEGER,
        verdict INTEGER NOT NULL,
        rule INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;
",
    // What lookup, flow and contact have of earlier runs stays there; later runs are here, packed (`attempts`), under a number
    // by which those of one service lie together (`place`).
    "
    CREATE TABLE attempts (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
",
    // What was attached to, as it was typed, where there was no command. Runs that were taken in before do not say.
    "
    ALTER TABLE run ADD COLUMN target INTEGER;
",
];

/// The numbers of a run's rows in `attempts`.
pub(crate) fn place(service: Option<i64>, run: i64) -> RangeInclusive<i64> {
    // Only that they lie together depends on the service, so that it may be cut off.
    let service = service.unwrap_or(0) & 0xf_ffff;
    let first = service << 43 | (run & 0x3fff_ffff) << 13;
    first..=first | 0x1fff
}

/// Bring the tables to the newest of `steps`.
pub(crate) fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), Error> {
    let newest = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let found = version(connection)?;
    if found > newest {
        return Err(Error::new(
            Kind::Newer,
            format!(
                "the history has schema version {found}, and this blackstart knows versions up to {newest}; use a newer one"
            ),
        ));
    }
    if found == newest {
        return Ok(());
    }
    if found == 0 {
        // Only before there are tables; room is given back when runs are pruned.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another command may have done it since.
    let found = version(&transaction)?;
    for step in steps.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", newest)?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> Result<u32, Error> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step that a later version might take.
    const NEXT: &str = "ALTER TABLE run ADD COLUMN note TEXT; UPDATE run SET note = 'old';";

    fn old() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, STEPS).unwrap();
        connection
            .execute_batch(
                "INSERT INTO run VALUES (7, 'a-run', NULL, 1, 1, 5, NULL, NULL, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, NULL)",
            )
            .unwrap();
        connection
    }

    #[test]
    fn an_older_history_is_brought_up_with_what_is_in_it() {
        let mut connection = old();
        let steps = [STEPS, &[NEXT, "CREATE TABLE other (x)"]].concat();
        migrate(&mut connection, &steps).unwrap();
        assert_eq!(version(&connection).unwrap() as usize, STEPS.len() + 2);
        let (uuid, note): (String, String) = connection
            .query_row("SELECT uuid, note FROM run", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!((uuid.as_str(), note.as_str()), ("a-run", "old"));
        // Again, it is what it is.
        migrate(&mut connection, &steps).unwrap();
        // And this version leaves it alone.
        let error = migrate(&mut connection, STEPS).unwrap_err();
        assert_eq!(error.kind(), Kind::Newer);
        assert_eq!(version(&connection).unwrap() as usize, STEPS.len() + 2);
    }

    #[test]
    fn a_step_that_fails_leaves_everything_as_it_was() {
        let mut connection = old();
        let steps = [STEPS, &[NEXT, "CREATE TABLE run (x)"]].concat();
        migrate(&mut connection, &steps).unwrap_err();
        assert_eq!(version(&connection).unwrap() as usize, STEPS.len());
        let columns: i64 = connection
            .query_row("SELECT count(*) FROM pragma_table_info('run')", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(columns, 24);
        migrate(&mut connection, STEPS).unwrap();
    }
}
