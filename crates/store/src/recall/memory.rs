//! What runs reached for, put together again from the numbers by which the tables have it.

use std::net::IpAddr;
use std::sync::Arc;

use blackstart_core::history::{
    Ancestry, Answer, Asked, Contacted, LineageId, Micros, Past, Reached, Surroundings,
};
use hashbrown::HashMap;
use rusqlite::Connection;

use crate::Error;
use crate::attempts::{Attempts, ContactRow, FlowRow, LookupRow};
use crate::earlier;
use crate::numbers::{self, amount, attribution, verdict};
use crate::schema::place;

/// How many texts, answers and destinations are kept while runs are gone through.
const KEPT: usize = 200_000;

/// What numbers stand for, as far as it was met.
pub(super) struct Memory<'c, 'a> {
    connection: &'c Connection,
    pub(super) ancestry: &'a mut Ancestry,
    words: HashMap<i64, Arc<str>>,
    answers: HashMap<i64, Arc<Answer>>,
    surroundings: HashMap<i64, Arc<Surroundings>>,
    lacks: HashMap<i64, Arc<[String]>>,
    destinations: HashMap<i64, Destination>,
    lineages: HashMap<i64, LineageId>,
}

#[derive(Clone)]
struct Destination {
    name: Option<Arc<str>>,
    address: IpAddr,
    port: u16,
    protocol: Arc<str>,
}

impl<'c, 'a> Memory<'c, 'a> {
    pub(super) fn new(
        connection: &'c Connection,
        ancestry: &'a mut Ancestry,
    ) -> Result<Self, Error> {
        // What lies together is read at once; the default is for those that write a little.
        connection.pragma_update(None, "cache_size", -32_000)?;
        Ok(Self {
            connection,
            ancestry,
            words: HashMap::new(),
            answers: HashMap::new(),
            surroundings: HashMap::new(),
            lacks: HashMap::new(),
            destinations: HashMap::new(),
            lineages: HashMap::from([(0, 0)]),
        })
    }

    pub(super) fn past(&mut self, number: i64, service: Option<i64>) -> Result<Past, Error> {
        self.tidy();
        let attempts = match attempts_of(self.connection, number, service)? {
            Some(attempts) => attempts,
            None => earlier::attempts_of(self.connection, number)?,
        };
        let Some((head, id)) = attempts.head else {
            return Err(Error::damaged("what a run did"));
        };
        let [service, host, started, drill, attached, lacks, around] = head;
        let lookups = attempts.lookups.iter().map(|row| self.asked(row, started));
        let lookups = lookups.collect::<Result<_, _>>()?;
        let flows = attempts.flows.iter().map(|row| self.reached(row, started));
        let flows = flows.collect::<Result<_, _>>()?;
        let contacts = attempts.contacts.iter().map(|row| self.contacted(row));
        let contacts = contacts.collect::<Result<_, _>>()?;
        Ok(Past {
            id,
            service: match service {
                0 => None,
                service => Some(self.word(service)?),
            },
            host: self.word(host)?,
            started,
            drill: drill != 0,
            attached: attached != 0,
            lacks: self.lacks(lacks)?,
            around: self.surroundings(around)?,
            lookups,
            flows,
            contacts,
        })
    }

    fn asked(&mut self, row: &LookupRow, began: Micros) -> Result<Asked, Error> {
        let [
            name,
            qtype,
            by,
            subject,
            given,
            rule,
            queries,
            first,
            last,
            answer,
        ] = *row;
        Ok(Asked {
            name: self.word(name)?,
            qtype: self.word(qtype)?,
            by: self.lineage(by)?,
            subject: numbers::subject(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            queries: amount(queries),
            first: began.wrapping_add(first),
            last: began.wrapping_add(last),
            answer: self.answer(answer)?,
        })
    }

    fn reached(&mut self, row: &FlowRow, began: Micros) -> Result<Reached, Error> {
        let [
            destination,
            by,
            subject,
            given,
            rule,
            attempts,
            first,
            last,
            sure,
            probe,
        ] = *row;
        let Destination {
            name,
            address,
            port,
            protocol,
        } = self.destination(destination)?;
        Ok(Reached {
            name,
            address,
            port,
            protocol,
            by: self.lineage(by)?,
            subject: numbers::subject(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            attempts: amount(attempts),
            first: began.wrapping_add(first),
            last: began.wrapping_add(last),
            attribution: attribution(sure)?,
            probe: probe != 0,
        })
    }

    fn contacted(&mut self, row: &ContactRow) -> Result<Contacted, Error> {
        let [path, by, subject, given, rule, attempts] = *row;
        Ok(Contacted {
            path: self.word(path)?,
            by: self.lineage(by)?,
            subject: numbers::subject(subject),
            verdict: verdict(given)?,
            rule: self.word(rule)?,
            attempts: amount(attempts),
        })
    }

    fn text(&self, id: i64) -> Result<String, Error> {
        Ok(self
            .connection
            .prepare_cached("SELECT text FROM word WHERE id = ?")?
            .query_row([id], |row| row.get(0))?)
    }

    fn word(&mut self, id: i64) -> Result<Arc<str>, Error> {
        if let Some(known) = self.words.get(&id) {
            return Ok(known.clone());
        }
        let word: Arc<str> = self.text(id)?.into();
        self.words.insert(id, word.clone());
        Ok(word)
    }

    fn answer(&mut self, id: i64) -> Result<Arc<Answer>, Error> {
        if let Some(known) = self.answers.get(&id) {
            return Ok(known.clone());
        }
        let (addresses, chain): (Vec<IpAddr>, Vec<Arc<str>>) = parsed(&self.text(id)?)?;
        let answer = Arc::new(Answer { addresses, chain });
        self.answers.insert(id, answer.clone());
        Ok(answer)
    }

    fn surroundings(&mut self, id: i64) -> Result<Arc<Surroundings>, Error> {
        if let Some(known) = self.surroundings.get(&id) {
            return Ok(known.clone());
        }
        let (own, resolvers, search) = parsed(&self.text(id)?)?;
        let around = Arc::new(Surroundings {
            own,
            resolvers,
            search,
        });
        self.surroundings.insert(id, around.clone());
        Ok(around)
    }

    fn lacks(&mut self, id: i64) -> Result<Arc<[String]>, Error> {
        if let Some(known) = self.lacks.get(&id) {
            return Ok(known.clone());
        }
        let lacks: Vec<String> = parsed(&self.text(id)?)?;
        let lacks: Arc<[String]> = lacks.into();
        self.lacks.insert(id, lacks.clone());
        Ok(lacks)
    }

    fn destination(&mut self, id: i64) -> Result<Destination, Error> {
        if let Some(known) = self.destinations.get(&id) {
            return Ok(known.clone());
        }
        let (name, address, port, protocol): (i64, Vec<u8>, i64, i64) = self
            .connection
            .prepare_cached("SELECT name, address, port, protocol FROM destination WHERE id = ?")?
            .query_row([id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let address = <[u8; 4]>::try_from(address.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(address.as_slice()).map(IpAddr::from))
            .map_err(|_| Error::damaged("an address"))?;
        let found = Destination {
            name: match name {
                0 => None,
                name => Some(self.word(name)?),
            },
            address,
            port: u16::try_from(port).map_err(|_| Error::damaged("a port"))?,
            protocol: self.word(protocol)?,
        };
        self.destinations.insert(id, found.clone());
        Ok(found)
    }

    /// A parent was entered before what it started, so that its number is the smaller one.
    fn lineage(&mut self, id: i64) -> Result<LineageId, Error> {
        let mut unknown: Vec<(i64, i64)> = Vec::new();
        let mut next = id;
        let mut above = loop {
            if let Some(known) = self.lineages.get(&next) {
                break *known;
            }
            let (parent, exe): (i64, i64) = self
                .connection
                .prepare_cached("SELECT parent, exe FROM lineage WHERE id = ?")?
                .query_row([next], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if parent >= next {
                return Err(Error::damaged("who started a program"));
            }
            unknown.push((next, exe));
            next = parent;
        };
        for (number, exe) in unknown.into_iter().rev() {
            let exe = self.word(exe)?;
            above = self.ancestry.below(above, &exe);
            self.lineages.insert(number, above);
        }
        Ok(above)
    }

    /// Ever new addresses and names are not all kept.
    fn tidy(&mut self) {
        if self.words.len() > KEPT {
            self.words.clear();
        }
        if self.answers.len() > KEPT {
            self.answers.clear();
        }
        if self.destinations.len() > KEPT {
            self.destinations.clear();
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|_| Error::damaged("a list"))
}

/// What a run did, of all its parts; none, if an earlier version took it in.
fn attempts_of(
    connection: &Connection,
    run: i64,
    service: Option<i64>,
) -> Result<Option<Attempts>, Error> {
    let place = place(service, run);
    let mut statement = connection
        .prepare_cached("SELECT bytes FROM attempts WHERE id BETWEEN ? AND ? ORDER BY id")?;
    let mut rows = statement.query([place.start(), place.end()])?;
    let mut all: Option<Attempts> = None;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let part = Attempts::unpacked(bytes).ok_or_else(|| Error::damaged("what a run did"))?;
        match &mut all {
            None => all = Some(part),
            Some(all) => all.append(part),
        }
    }
    Ok(all)
}
