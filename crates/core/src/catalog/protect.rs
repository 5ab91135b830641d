//! What a policy's `protect:` and `service:` stand for.
//!
//! To protect a service is to rehearse its outage: nothing that it provides can be reached, and neither can
//! what cannot serve without it. So a policy that protects `github` denies what github provides, and what
//! every service provides that needs github to run, directly or through others. Of needs, those for `run`
//! count: a service that needs github only to be *deployed* goes on serving while github is down. A need
//! counts whatever is claimed of its strength, since a claim of `soft` is what a rehearsal is to show.
//!
//! Nothing is excepted here. That a deploy may reach its own instance on its own host (loopback, the host's
//! addresses) follows from the policy's built-in rules, unless an endpoint names these very addresses.

use std::collections::VecDeque;

use super::{At, Catalog, Phase, ServiceId};
use crate::policy::{PortRange, Target};
use crate::tables::Protocol;

/// What is to be denied, in the order of the distance from what is protected, then of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derivation {
    /// On the network.
    pub rules: Vec<Derived>,
    /// Unix sockets.
    pub sockets: Vec<DerivedSocket>,
    /// Services that ought to be out of reach, and provide nothing that could be denied.
    pub silent: Vec<String>,
}

/// Something to deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// What.
    pub target: Target,
    /// On which ports; none for all of them.
    pub ports: Option<PortRange>,
    /// With which protocol; none for all of them.
    pub protocol: Option<Protocol>,
    /// The service that provides it.
    pub service: String,
    /// From that service, need by need, to the one that is protected; that one alone, if it is itself.
    pub path: Vec<String>,
}

/// A unix socket to deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedSocket {
    /// Its path, or `@` and its abstract name.
    pub socket: String,
    /// The service that provides it.
    pub service: String,
    /// As in [`Derived::path`].
    pub path: Vec<String>,
}

/// A service that the catalog does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the catalog has no service {name:?}")]
pub struct UnknownService {
    /// As it was written.
    pub name: String,
    /// What was probably meant.
    pub nearest: Option<String>,
}

/// What `protect: [NAME, …]` stands for. Every name that the catalog does not have is told.
pub fn protect<S: AsRef<str>>(
    catalog: &Catalog,
    names: &[S],
) -> Result<Derivation, Vec<UnknownService>> {
    let protected = look_up(catalog, names)?;
    let mut derivation = Derivation::default();
    for (service, path) in dependents(catalog, &protected) {
        derivation.add(catalog, service, &path);
    }
    Ok(derivation)
}

/// What `service:NAME` stands for: what that service provides, and nothing else.
pub fn provided(catalog: &Catalog, name: &str) -> Result<Derivation, UnknownService> {
    let service = catalog.named(name)?;
    let mut derivation = Derivation::default();
    derivation.add(catalog, service, &[service]);
    Ok(derivation)
}

fn look_up<S: AsRef<str>>(
    catalog: &Catalog,
    names: &[S],
) -> Result<Vec<ServiceId>, Vec<UnknownService>> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for name in names {
        match catalog.named(name.as_ref()) {
            Ok(service) => found.push(service),
            Err(error) => unknown.push(error),
        }
    }
    found.sort_unstable();
    found.dedup();
    if unknown.is_empty() {
        Ok(found)
    } else {
        Err(unknown)
    }
}

/// The protected services and all that need one of them to run, each with a shortest path of needs to the
/// nearest; of several, the one that comes first by name at each step.
fn dependents(catalog: &Catalog, protected: &[ServiceId]) -> Vec<(ServiceId, Vec<ServiceId>)> {
    let mut needed_by: Vec<Vec<ServiceId>> = vec![Vec::new(); catalog.services().len()];
    for id in catalog.ids() {
        for need in &catalog.service(id).needs {
            if need.phase == Phase::Run {
                needed_by[need.service.index()].push(id);
            }
        }
    }
    // The next service on the way, for each that was reached.
    let mut next: Vec<Option<ServiceId>> = vec![None; catalog.services().len()];
    let mut distance: Vec<Option<u32>> = vec![None; catalog.services().len()];
    let mut queue: VecDeque<(ServiceId, u32)> = protected.iter().map(|&id| (id, 0)).collect();
    for &id in protected {
        distance[id.index()] = Some(0);
    }
    let mut reached = Vec::new();
    while let Some((id, far)) = queue.pop_front() {
        reached.push((far, id));
        for &user in &needed_by[id.index()] {
            match distance[user.index()] {
                None => {
                    distance[user.index()] = Some(far + 1);
                    next[user.index()] = Some(id);
                    queue.push_back((user, far + 1));
                }
                Some(known) if known == far + 1 && next[user.index()] > Some(id) => {
                    next[user.index()] = Some(id);
                }
                Some(_) => {}
            }
        }
    }
    reached.sort_unstable();
    reached
        .into_iter()
        .map(|(_, id)| {
            let path = std::iter::successors(Some(id), |id| next[id.index()]).collect();
            (id, path)
        })
        .collect()
}

impl Derivation {
    fn add(&mut self, catalog: &Catalog, id: ServiceId, path: &[ServiceId]) {
        let service = catalog.service(id);
        let path: Vec<String> = path
            .iter()
            .map(|&id| catalog.service(id).name.clone())
            .collect();
        if service.provides.is_empty() {
            self.silent.push(service.name.clone());
        }
        for endpoint in &service.provides {
            match &endpoint.at {
                At::Net {
                    target,
                    ports,
                    protocol,
                } => self.rules.push(Derived {
                    target: target.clone(),
                    ports: *ports,
                    protocol: *protocol,
                    service: service.name.clone(),
                    path: path.clone(),
                }),
                At::Unix(socket) => self.sockets.push(DerivedSocket {
                    socket: socket.clone(),
                    service: service.name.clone(),
                    path: path.clone(),
                }),
            }
        }
    }
}
