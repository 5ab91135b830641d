//! What runs did that a version took in which had a row for each attempt. Those rows stay where they are: to pack them all would
//! hold up whoever opens the history first.

use rusqlite::Connection;

use crate::Error;
use crate::attempts::Attempts;

/// Every run has a command; what was attached to has none.
pub(crate) const NO_COMMAND: &str = "[]";

/// What a run did, as if it were packed.
pub(crate) fn attempts_of(connection: &Connection, run: i64) -> Result<Attempts, Error> {
    let (head, id) = connection
        .prepare_cached(
            "SELECT coalesce(service, 0), host, started, drill, (SELECT text FROM word WHERE id = command) = ?2, lacks,
                 surroundings, uuid FROM run WHERE id = ?1",
        )?
        .query_row(rusqlite::params![run, NO_COMMAND], |row| {
            let mut head = [0; 7];
            for (at, number) in head.iter_mut().enumerate() {
                *number = row.get(at)?;
            }
            Ok((head, row.get(7)?))
        })?;
    let began = head[2];
    Ok(Attempts {
        head: Some((head, id)),
        lookups: rows(
            connection,
            "SELECT name, type, lineage, coalesce(subject + 1, 0), verdict, rule, queries, first - ?2, last - ?2, answer
             FROM lookup WHERE run = ?1 ORDER BY seq",
            [run, began],
        )?,
        flows: rows(
            connection,
            "SELECT destination, lineage, coalesce(subject + 1, 0), verdict, rule, attempts, first - ?2, last - ?2,
                 attribution, probe FROM flow WHERE run = ?1 ORDER BY seq",
            [run, began],
        )?,
        contacts: rows(
            connection,
            "SELECT path, lineage, coalesce(subject + 1, 0), verdict, rule, attempts
             FROM contact WHERE run = ?1 AND ?2 = ?2 ORDER BY seq",
            [run, began],
        )?,
    })
}

fn rows<const N: usize>(
    connection: &Connection,
    text: &str,
    parameters: [i64; 2],
) -> Result<Vec<[i64; N]>, Error> {
    let mut statement = connection.prepare_cached(text)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut numbers = [0; N];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = row.get(at)?;
        }
        found.push(numbers);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::time::Duration;

    use blackstart_core::history::{Ancestry, Past};
    use blackstart_core::report::{Attribution, Verdict};

    use crate::retention::{Limits, plan};
    use crate::schema::{STEPS, migrate};
    use crate::{FILE, Filter, Store};

    /// As the first version left a run: one that asked for a name in two ways, reached it, and contacted a daemon.
    const RUN: &str = r#"
        INSERT INTO word VALUES
            (1, 'mysql'), (2, 'db1'), (3, '["./deploy.sh"]'), (4, '["a gap"]'), (5, '[["10.0.0.7"],["10.0.0.53"],["corp"]]'),
            (6, 'a.example'), (7, 'A'), (8, 'default'), (9, '[["10.1.0.1"],["b.example"]]'), (10, '/bin/sh'), (11, 'tcp'),
            (12, '/run/d.socket'), (13, '/usr/bin/curl'), (14, 'AAAA'), (15, '[[],[]]'), (16, 'deny 10.1.0.0/16');
        INSERT INTO lineage VALUES (1, 0, 10), (2, 1, 13);
        INSERT INTO destination VALUES (1, 6, x'0a010001', 443, 11), (2, 0, x'20010db8000000000000000000000001', 53, 11);
        INSERT INTO run VALUES (7, 'a-run', 1, 2, 3, 5000, 9000, 6, 1, 0, 1, 0, 9, 0, 2, 1, 0, 0, 4, 5, 7, 0, 0);
        INSERT INTO program VALUES (7, 10), (7, 13);
        INSERT INTO lookup VALUES
            (7, 0, 6, 7, 2, 0, 0, 8, 2, 5100, 5200, 9), (7, 1, 6, 14, 0, NULL, 3, 8, 1, 4900, 5200, 15);
        INSERT INTO flow VALUES
            (7, 0, 1, 2, 3, 1, 16, 4, 5300, 5400, 0, 0), (7, 1, 2, 1, NULL, 0, 8, 1, 5301, 5301, 3, 1);
        INSERT INTO contact VALUES (7, 0, 12, 1, 9, 0, 8, 6);
    "#;

    fn old(dir: &Path) {
        let mut connection = rusqlite::Connection::open(dir.join(FILE)).unwrap();
        migrate(&mut connection, &STEPS[..1]).unwrap();
        connection.execute_batch(RUN).unwrap();
    }

    fn pasts(store: &Store) -> (Vec<Past>, Ancestry) {
        let (mut found, mut ancestry) = (Vec::new(), Ancestry::default());
        store
            .pasts(&Filter::default(), &mut ancestry, &mut |past, _| {
                found.push(past.clone());
                ControlFlow::Continue(())
            })
            .unwrap();
        (found, ancestry)
    }

    fn is_told(past: &Past, ancestry: &Ancestry) {
        assert_eq!((&*past.id, past.started), ("a-run", 5000));
        assert_eq!(
            (past.service.as_deref(), &*past.host),
            (Some("mysql"), "db1")
        );
        assert!(past.drill && !past.attached);
        assert_eq!(*past.lacks, ["a gap".to_owned()]);
        assert_eq!(past.around.search, ["corp"]);
        let chain = |by| -> Vec<String> { ancestry.chain(by).map(ToString::to_string).collect() };
        let [first, second] = &past.lookups[..] else {
            panic!("{past:#?}")
        };
        assert_eq!((&*first.name, &*first.qtype), ("a.example", "A"));
        assert_eq!(chain(first.by), ["/usr/bin/curl", "/bin/sh"]);
        assert_eq!((first.subject, first.queries), (Some(0), 2));
        assert_eq!((first.first, first.last), (5100, 5200));
        assert_eq!(*first.answer.chain, ["b.example".into()]);
        assert_eq!((second.subject, second.verdict), (None, Verdict::Waived));
        assert_eq!((second.first, chain(second.by).len()), (4900, 0));
        let [flow, other] = &past.flows[..] else {
            panic!("{past:#?}")
        };
        assert_eq!(flow.destination(), "a.example:443");
        assert_eq!((flow.subject, flow.verdict), (Some(3), Verdict::Deny));
        assert_eq!((&*flow.rule, flow.attempts), ("deny 10.1.0.0/16", 4));
        assert_eq!((flow.first, flow.last, flow.probe), (5300, 5400, false));
        assert_eq!(other.destination(), "[2001:db8::1]:53");
        assert_eq!(
            (other.attribution, other.probe),
            (Attribution::Unnamed, true)
        );
        assert_eq!(&*past.contacts[0].path, "/run/d.socket");
        assert_eq!(
            (past.contacts[0].subject, past.contacts[0].attempts),
            (Some(9), 6)
        );
    }

    #[test]
    fn a_run_of_an_earlier_version_is_told_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        old(dir.path());
        let mut store = Store::open(dir.path(), Duration::from_secs(30))
            .unwrap()
            .store;
        let (found, ancestry) = pasts(&store);
        assert_eq!(found.len(), 1);
        is_told(&found[0], &ancestry);
        // What it has to do with stays as long as it does, whatever else goes.
        store.forget_words().unwrap();
        let (found, ancestry) = pasts(&store);
        is_told(&found[0], &ancestry);
        let limits = Limits {
            began_before: Some(6000),
            most_bytes: None,
        };
        let going = plan(store.kept().unwrap(), store.size().unwrap(), limits);
        store.remove(&going).unwrap();
        for table in [
            "word",
            "lineage",
            "destination",
            "lookup",
            "flow",
            "contact",
        ] {
            let text = format!("SELECT count(*) FROM {table}");
            let rows: i64 = store
                .connection
                .query_row(&text, [], |row| row.get(0))
                .unwrap();
            assert_eq!(rows, 0, "{table}");
        }
    }
}
