//! A report as it is read: entry by entry, in the order in which it is written.

use std::fmt;

use blackstart_core::report::{
    Coverage, Delegate, Flow, Name, Report, Run, SCHEMA_VERSION, Subject,
};
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::Entry;

/// The document, in the order in which it is written.
pub(super) struct Document<'e, 'c>(pub(super) &'e Entry<'c>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a report")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let entry = self.0;
        let mut versioned = false;
        let mut subjects_read = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schema_version" => {
                    let version: u32 = map.next_value()?;
                    if version > SCHEMA_VERSION {
                        return Err(A::Error::custom(format!(
                            "it has schema version {version}, and this blackstart reads versions up to {SCHEMA_VERSION}; use a newer one"
                        )));
                    }
                    versioned = true;
                }
                "run" => {
                    let run: Run = map.next_value()?;
                    entry.rest.borrow_mut().run = Some(run);
                }
                "subjects" => {
                    subjects_read = true;
                    map.next_value_seed(List::new(|subject: Subject| {
                        entry.stashed(entry.subject(&subject))
                    }))?;
                }
                // They name subjects by number, and lie where the run has its place.
                "names" | "flows" | "delegates"
                    if !subjects_read || entry.rest.borrow().run.is_none() =>
                {
                    return Err(A::Error::custom("its lists are not in a report's order"));
                }
                "names" => {
                    map.next_value_seed(List::new(|name: Name| entry.stashed(entry.name(&name))))?
                }
                "flows" => {
                    map.next_value_seed(List::new(|flow: Flow| entry.stashed(entry.flow(&flow))))?
                }
                "delegates" => map.next_value_seed(List::new(|delegate: Delegate| {
                    // Among the flows as well.
                    if !delegate.is_unix() {
                        return Ok(());
                    }
                    entry.stashed(entry.delegate(&delegate))
                }))?,
                "findings" => map.next_value_seed(List::new(|_: IgnoredAny| {
                    entry.rest.borrow_mut().findings += 1;
                    Ok(())
                }))?,
                "coverage" => {
                    let coverage: Coverage = map.next_value()?;
                    entry.rest.borrow_mut().coverage = Some(coverage);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if versioned {
            Ok(())
        } else {
            Err(A::Error::custom("it has no schema version"))
        }
    }
}

/// A list, of which each entry is gone before the next is read.
struct List<T, F> {
    each: F,
    of: std::marker::PhantomData<T>,
}

impl<T, F> List<T, F> {
    fn new<E>(each: F) -> Self
    where
        F: FnMut(T) -> Result<(), E>,
    {
        Self {
            each,
            of: std::marker::PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>, F> DeserializeSeed<'de> for List<T, F>
where
    F: FnMut(T) -> Result<(), serde_json::Error>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>, F> Visitor<'de> for List<T, F>
where
    F: FnMut(T) -> Result<(), serde_json::Error>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(entry) = seq.next_element()? {
            (self.each)(entry).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

// That a report has no list which is not taken in: this does not compile where one is added.
const _: fn(Report) = |report| {
    let Report {
        schema_version: _,
        run: _,
        subjects: _,
        names: _,
        flows: _,
        delegates: _,
        findings: _,
        coverage: _,
    } = report;
};
