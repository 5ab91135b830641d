//! Which runs a history keeps: a plan, which can be shown, and what carries it out.

use std::collections::HashSet;

use blackstart_core::history::Micros;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::attempts::Attempts;
use crate::schema::place;
use crate::{Error, Store};

/// What is to be kept. Nothing said, everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Runs that began before are removed.
    pub began_before: Option<Micros>,
    /// The earliest runs are removed until the history is no larger.
    pub most_bytes: Option<u64>,
}

/// A run, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    number: i64,
    /// Its id.
    pub id: String,
    /// When it began.
    pub started: Micros,
    /// About what it takes.
    pub bytes: u64,
}

/// Why a run is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is too old.
    Age,
    /// The history is too large.
    Size,
}

/// What is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The runs, the earliest first.
    pub remove: Vec<(Kept, Why)>,
    /// How many runs stay.
    pub keep: u64,
    /// The size of the history.
    pub bytes: u64,
    /// What about it will be.
    pub bytes_after: u64,
}

/// Of the runs, the earliest first, which together take `bytes`, those that are to go.
pub fn plan(runs: Vec<Kept>, bytes: u64, limits: Limits) -> Plan {
    let all: u64 = runs.iter().map(|run| run.bytes).sum();
    // Each takes its part of what tables and indices take.
    let part = |of: u64| u64::try_from(u128::from(bytes) * u128::from(of) / u128::from(all.max(1)));
    let mut plan = Plan {
        keep: runs.len() as u64,
        bytes,
        bytes_after: bytes,
        ..Plan::default()
    };
    for mut run in runs {
        let too_old = limits.began_before.is_some_and(|day| run.started < day);
        let too_large = limits
            .most_bytes
            .is_some_and(|most| plan.bytes_after > most);
        let why = match (too_old, too_large) {
            (true, _) => Why::Age,
            (false, true) => Why::Size,
            (false, false) => continue,
        };
        run.bytes = part(run.bytes).unwrap_or(u64::MAX);
        plan.bytes_after = plan.bytes_after.saturating_sub(run.bytes);
        plan.keep -= 1;
        plan.remove.push((run, why));
    }
    plan
}

/// So many runs are removed at a time: whoever wants to write meanwhile gets a turn.
const BATCH: usize = 100;
/// About what a row takes, with its place in the indices.
const ROW_BYTES: i64 = 48;

impl Store {
    /// What there is, the earliest first.
    pub fn kept(&self) -> Result<Vec<Kept>, Error> {
        let mut statement = self.connection.prepare(
            "SELECT id, uuid, started, stored_bytes + row_count * ?1 + 200 FROM run ORDER BY started, id",
        )?;
        let rows = statement.query_map([ROW_BYTES], |row| {
            Ok(Kept {
                number: row.get(0)?,
                id: row.get(1)?,
                started: row.get(2)?,
                bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Remove what the plan says, and give the room back.
    pub fn remove(&mut self, plan: &Plan) -> Result<(), Error> {
        if plan.remove.is_empty() {
            return Ok(());
        }
        for batch in plan.remove.chunks(BATCH) {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (run, _) in batch {
                forget(&transaction, run.number)?;
            }
            transaction.commit()?;
        }
        self.forget_words()?;
        {
            // A page for each step.
            let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum")?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        // Whoever reads an older moment keeps the log; it goes with the next.
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// What no run has to do with any more.
    pub(crate) fn forget_words(&mut self) -> Result<(), Error> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(
            "CREATE TEMP TABLE used_destination (id INTEGER PRIMARY KEY);
             CREATE TEMP TABLE used_lineage (id INTEGER PRIMARY KEY);
             CREATE TEMP TABLE used (id INTEGER PRIMARY KEY);",
        )?;
        packed(&transaction)?;
        transaction.execute_batch(
            "INSERT OR IGNORE INTO used_destination SELECT destination FROM flow;
             DELETE FROM destination WHERE id NOT IN (SELECT id FROM used_destination);
             WITH RECURSIVE alive (id) AS (
                 SELECT id FROM used_lineage
                 UNION SELECT lineage FROM lookup UNION SELECT lineage FROM flow UNION SELECT lineage FROM contact
                 UNION SELECT parent FROM lineage JOIN alive ON lineage.id = alive.id
             ) INSERT OR IGNORE INTO used_lineage SELECT id FROM alive;
             DELETE FROM lineage WHERE id NOT IN (SELECT id FROM used_lineage);
             INSERT OR IGNORE INTO used SELECT service FROM run WHERE service IS NOT NULL;
             INSERT OR IGNORE INTO used SELECT host FROM run;
             INSERT OR IGNORE INTO used SELECT target FROM run WHERE target IS NOT NULL;
             INSERT OR IGNORE INTO used SELECT command FROM run;
             INSERT OR IGNORE INTO used SELECT lacks FROM run;
             INSERT OR IGNORE INTO used SELECT surroundings FROM run;
             INSERT OR IGNORE INTO used SELECT exe FROM program;
             INSERT OR IGNORE INTO used SELECT exe FROM lineage;
             INSERT OR IGNORE INTO used SELECT name FROM destination;
             INSERT OR IGNORE INTO used SELECT protocol FROM destination;
             INSERT OR IGNORE INTO used SELECT name FROM lookup;
             INSERT OR IGNORE INTO used SELECT type FROM lookup;
             INSERT OR IGNORE INTO used SELECT rule FROM lookup;
             INSERT OR IGNORE INTO used SELECT answer FROM lookup;
             INSERT OR IGNORE INTO used SELECT rule FROM flow;
             INSERT OR IGNORE INTO used SELECT path FROM contact;
             INSERT OR IGNORE INTO used SELECT rule FROM contact;
             DELETE FROM word WHERE id NOT IN (SELECT id FROM used);
             DROP TABLE used_destination;
             DROP TABLE used_lineage;
             DROP TABLE used;",
        )?;
        transaction.commit()?;
        Ok(())
    }
}

/// Remove the rows of a run.
pub(crate) fn forget(connection: &Connection, run: i64) -> rusqlite::Result<()> {
    for table in ["report", "program", "lookup", "flow", "contact"] {
        let text = format!("DELETE FROM {table} WHERE run = ?");
        connection.prepare_cached(&text)?.execute([run])?;
    }
    let service = connection
        .prepare_cached("SELECT service FROM run WHERE id = ?")?
        .query_row([run], |row| row.get(0))
        .optional()?;
    let place = place(service.flatten(), run);
    connection
        .prepare_cached("DELETE FROM attempts WHERE id BETWEEN ? AND ?")?
        .execute([place.start(), place.end()])?;
    connection
        .prepare_cached("DELETE FROM run WHERE id = ?")?
        .execute([run])?;
    Ok(())
}

/// Enter what the packed attempts have to do with.
fn packed(connection: &Connection) -> Result<(), Error> {
    let (mut words, mut lineages, mut destinations) =
        (HashSet::new(), HashSet::new(), HashSet::new());
    let mut statement = connection.prepare("SELECT bytes FROM attempts")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        // Nothing is forgotten that a part may need which cannot be read.
        let Some(part) = Attempts::unpacked(bytes) else {
            return Err(Error::damaged("what a run did"));
        };
        for [name, qtype, lineage, _, _, rule, _, _, _, answer] in part.lookups {
            words.extend([name, qtype, rule, answer]);
            lineages.insert(lineage);
        }
        for [destination, lineage, _, _, rule, ..] in part.flows {
            destinations.insert(destination);
            lineages.insert(lineage);
            words.insert(rule);
        }
        for [path, lineage, _, _, rule, _] in part.contacts {
            words.extend([path, rule]);
            lineages.insert(lineage);
        }
    }
    for (table, numbers) in [
        ("used", words),
        ("used_lineage", lineages),
        ("used_destination", destinations),
    ] {
        let mut statement =
            connection.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES (?)"))?;
        for number in numbers {
            statement.execute([number])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(count: i64) -> Vec<Kept> {
        let run = |number| Kept {
            number,
            id: number.to_string(),
            started: number,
            bytes: 100,
        };
        (0..count).map(run).collect()
    }

    fn removed(plan: &Plan) -> Vec<(&str, Why)> {
        let remove = plan.remove.iter();
        remove.map(|(run, why)| (run.id.as_str(), *why)).collect()
    }

    #[test]
    fn without_limits_everything_stays() {
        let plan = plan(runs(3), 600, Limits::default());
        assert_eq!((plan.remove.len(), plan.keep), (0, 3));
        assert_eq!((plan.bytes, plan.bytes_after), (600, 600));
    }

    #[test]
    fn the_earliest_go_first_and_no_more_than_need_be() {
        let limits = Limits {
            began_before: Some(1),
            most_bytes: Some(400),
        };
        let plan = plan(runs(5), 1000, limits);
        let wanted = [("0", Why::Age), ("1", Why::Size), ("2", Why::Size)];
        assert_eq!(removed(&plan), wanted);
        assert_eq!((plan.keep, plan.bytes_after), (2, 400));
    }

    #[test]
    fn nothing_is_too_much_for_a_limit_of_nothing() {
        let limits = Limits {
            began_before: None,
            most_bytes: Some(0),
        };
        assert_eq!(plan(runs(2), 500, limits).keep, 0);
        assert_eq!(
            plan(runs(0), 500, limits),
            Plan {
                bytes: 500,
                bytes_after: 500,
                ..Plan::default()
            }
        );
    }
}
