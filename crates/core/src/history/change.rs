//! What changed from earlier runs to a later one.

use std::collections::BTreeSet;

use super::Past;

/// What a run reached for and executed, as far as runs are compared by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Names with their ports, addresses where there was no name, and paths of daemons' sockets.
    pub destinations: BTreeSet<String>,
    /// Names that were looked up.
    pub names: BTreeSet<String>,
    /// Executables.
    pub executables: BTreeSet<String>,
}

/// What is in one and not in the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What the earlier runs do not have.
    pub new: Footprint,
    /// What the later run does not have.
    pub gone: Footprint,
}

impl Footprint {
    /// That of a run, which executed these.
    pub fn of(past: &Past, executables: BTreeSet<String>) -> Self {
        let flows = past.flows.iter().zip(past.counted());
        let flows = flows.filter(|(_, counted)| *counted);
        let sockets = past.contacts.iter().map(|it| format!("unix:{}", it.path));
        Self {
            destinations: flows
                .map(|(flow, _)| flow.destination())
                .chain(sockets)
                .collect(),
            names: past.lookups.iter().map(|it| it.name.to_string()).collect(),
            executables,
        }
    }

    /// What is in either.
    pub fn add(&mut self, other: Self) {
        self.destinations.extend(other.destinations);
        self.names.extend(other.names);
        self.executables.extend(other.executables);
    }

    /// Only what is in the other as well stays.
    pub fn retain(&mut self, other: &Self) {
        self.destinations
            .retain(|it| other.destinations.contains(it));
        self.names.retain(|it| other.names.contains(it));
        self.executables.retain(|it| other.executables.contains(it));
    }

    /// What is here and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        let rest = |these: &BTreeSet<String>, others: &BTreeSet<String>| {
            these.difference(others).cloned().collect()
        };
        Self {
            destinations: rest(&self.destinations, &other.destinations),
            names: rest(&self.names, &other.names),
            executables: rest(&self.executables, &other.executables),
        }
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.names.is_empty() && self.executables.is_empty()
    }
}

impl Changes {
    /// From earlier runs to a later one: new is what was in none of the earlier runs, gone what was in every one of
    /// the latest of them.
    pub fn between(ever: &Footprint, always: &Footprint, now: &Footprint) -> Self {
        Self {
            new: now.without(ever),
            gone: always.without(now),
        }
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(destinations: &[&str]) -> Footprint {
        Footprint {
            destinations: destinations.iter().map(|&it| it.to_owned()).collect(),
            ..Footprint::default()
        }
    }

    #[test]
    fn new_is_what_never_was_and_gone_what_always_was() {
        let mut ever = footprint(&["a:1", "b:1"]);
        let mut always = ever.clone();
        let second = footprint(&["a:1", "c:1"]);
        always.retain(&second);
        ever.add(second);
        let changes = Changes::between(&ever, &always, &footprint(&["b:1", "d:1"]));
        assert_eq!(changes.new, footprint(&["d:1"]));
        assert_eq!(changes.gone, footprint(&["a:1"]));
        assert!(Changes::between(&ever, &always, &footprint(&["a:1"])).is_empty());
    }
}
