//! The catalog: what can be down, as its owners wrote it.
//!
//! A catalog is a set of files; each holds YAML documents, one for each service, that say what it provides,
//! what it needs, and whom to ask. [`read()`] takes in all of them with every diagnostic at once: what is
//! wrong in one file takes nothing from the others, and the catalog says that it is partial.
//!
//! Where a destination is provided by several services, the closest description wins: the order of
//! DESIGN §6, as for rules.

mod join;
mod owners;
mod protect;
mod read;
mod schema;

use std::fmt;
use std::sync::Arc;

use crate::policy::{PortRange, Target};
use crate::tables::Protocol;
use owners::Owners;

pub use owners::Destination;
pub use protect::{Derivation, Derived, DerivedSocket, UnknownService, protect, provided};
pub(crate) use read::no_endpoint;
pub use read::{MAX_BYTES, Reading, read};
pub use schema::schema;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A service, by its place in the catalog's order. Only of use with the catalog that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub(crate) u32);

impl ServiceId {
    pub(crate) fn new(index: usize) -> Self {
        // A catalog of 2^32 services does not fit into memory.
        Self(index as u32)
    }

    /// Its place in [`Catalog::services`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an endpoint is reached by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    /// Names or addresses.
    Net {
        /// Which.
        target: Target,
        /// On which ports; none for all of them.
        ports: Option<PortRange>,
        /// With which protocol; none for all of them. Never [`Protocol::Other`].
        protocol: Option<Protocol>,
    },
    /// A unix socket: its path, or `@` and its abstract name.
    Unix(String),
}

/// Something that a service provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is reached by.
    pub at: At,
    /// As it was written.
    pub text: String,
    /// Where it was written.
    pub place: Place,
}

/// What a service needs another one for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// To be deployed.
    Deploy,
    /// To serve.
    Run,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::Run => "run",
        })
    }
}

/// What the want of a need does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// It manages without.
    Soft,
    /// It fails without.
    Hard,
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        })
    }
}

/// A need that a file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is needed.
    pub service: ServiceId,
    /// For what.
    pub phase: Phase,
    /// What its author says of it: a claim, which no experiment has shown.
    pub claim: Option<Strength>,
    /// Why, in its author's words.
    pub reason: Option<String>,
    /// From what kind of thing it was imported, such as `jaeger`; none if a person declared it.
    pub format: Option<Arc<str>>,
    /// Where it was written, or found.
    pub place: Place,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Whom to ask.
    pub owner: Option<String>,
    /// How critical it is; 1 is the most.
    pub tier: Option<u32>,
    /// What it provides.
    pub provides: Vec<Endpoint>,
    /// What it needs.
    pub needs: Vec<Need>,
    /// Where it was written.
    pub place: Place,
}

/// All services, in the order of their names.
#[derive(Debug, Default)]
pub struct Catalog {
    services: Vec<Service>,
    owners: Owners,
}

impl Catalog {
    /// The services, in the order of their names; [`ServiceId::index`] is the place in it.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The ids of all of them, in the same order.
    pub fn ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (0..self.services.len()).map(ServiceId::new)
    }

    /// The service with this id.
    ///
    /// # Panics
    ///
    /// If the id is another catalog's.
    pub fn service(&self, id: ServiceId) -> &Service {
        &self.services[id.index()]
    }

    /// The service with this name.
    pub fn find(&self, name: &str) -> Option<ServiceId> {
        self.services
            .binary_search_by(|service| service.name.as_str().cmp(name))
            .ok()
            .map(ServiceId::new)
    }

    /// The service with this name, or what to say where there is none.
    pub fn named(&self, name: &str) -> Result<ServiceId, UnknownService> {
        self.find(name).ok_or_else(|| UnknownService {
            name: name.to_owned(),
            nearest: crate::document::nearest_of(
                name,
                self.services.iter().map(|service| service.name.as_str()),
            )
            .map(str::to_owned),
        })
    }

    /// Which service provides a destination, by the closest description.
    pub fn owner_of(&self, destination: &Destination<'_>) -> Option<ServiceId> {
        self.owners.of(&self.services, destination)
    }
}
