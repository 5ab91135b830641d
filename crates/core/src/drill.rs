//! A drill: the outage of some services, played for one run.
//!
//! What is down can be reached by nobody of the run: what the services provide is denied, and so is what cannot
//! serve without them (as for a policy's `protect:`). The rest of the policy stays what it is. A drill's denials
//! are final: a waiver that let a deployment reach what is down would show nothing of an outage.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::{self, At, Derived, Reading, UnknownService};
use crate::path::PathPattern;
use crate::policy::target::written;
use crate::policy::{Derivation, Effect, Failure, PortRange, Rank, Rule, Target};
use crate::report::Mode;
use crate::tables::Protocol;

/// How an outage looks from outside.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The service's process is gone: its names resolve, and connections are refused at once.
    #[default]
    Refuse,
    /// Its host, or the network to it, is gone: its names resolve, and what is sent is lost.
    Blackhole,
    /// Its names do not resolve; who has an address from elsewhere is refused.
    Nxdomain,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Blackhole => "blackhole",
            Self::Nxdomain => "nxdomain",
        })
    }
}

/// A drill as a run is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// The services that are down, sorted.
    pub down: Vec<String>,
    /// How that looks.
    pub fault: Fault,
}

/// What a drill denies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    /// The rules, in the order of the distance from what is down.
    pub rules: Vec<Rule>,
    /// Services that ought to be out of reach as well, and provide nothing that could be denied.
    pub silent: Vec<String>,
}

/// Why a drill cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplayable {
    /// The catalog could not be read as a whole: what it lacks might be what is down.
    #[error("the catalog could not be read as a whole, so it is not known what {0} provides")]
    Partial(String),
    /// There is no such service.
    #[error(transparent)]
    Unknown(UnknownService),
    /// Nothing of it can be denied.
    #[error("the catalog does not say what {0} provides, so nothing of it can be put out of reach")]
    Silent(String),
}

impl Unplayable {
    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Partial(_) => "mend the catalog first".to_owned(),
            Self::Unknown(unknown) => match &unknown.nearest {
                Some(near) => format!("did you mean {near:?}?"),
                None => "give it a file in the catalog".to_owned(),
            },
            Self::Silent(_) => {
                "say under its `provides:` by which names and addresses it is reached".to_owned()
            }
        }
    }
}

impl Drill {
    /// What it denies, by what the catalog says; or everything that stands in its way.
    pub fn denials(&self, reading: &Reading) -> Result<Denials, Vec<Unplayable>> {
        if reading.partial {
            return Err(vec![Unplayable::Partial(self.down.join(", "))]);
        }
        let derivation = catalog::protect(&reading.catalog, &self.down).map_err(|unknown| {
            unknown
                .into_iter()
                .map(Unplayable::Unknown)
                .collect::<Vec<_>>()
        })?;
        let (unplayable, silent): (Vec<_>, Vec<_>) = derivation
            .silent
            .into_iter()
            .partition(|service| self.down.contains(service));
        if !unplayable.is_empty() {
            return Err(unplayable.into_iter().map(Unplayable::Silent).collect());
        }
        let mut rules: Vec<Rule> = derivation
            .rules
            .into_iter()
            .map(|derived| self.of_net(reading, derived))
            .collect();
        // The catalog has no socket whose path could not be a pattern.
        rules.extend(derivation.sockets.into_iter().filter_map(|derived| {
            let target = Target::Unix(PathPattern::exact_socket(&derived.socket).ok()?);
            let at = At::Unix(derived.socket);
            Some(self.rule(
                reading,
                (target, None, None),
                &at,
                derived.service,
                derived.path,
            ))
        }));
        Ok(Denials { rules, silent })
    }

    fn of_net(&self, reading: &Reading, derived: Derived) -> Rule {
        let at = At::Net {
            target: derived.target.clone(),
            ports: derived.ports,
            protocol: derived.protocol,
        };
        let (ports, protocol) = match (self.fault, &derived.target) {
            // A name is looked up for all its ports at once.
            (Fault::Nxdomain, Target::Name(_)) => (None, None),
            // A rule without ports would refuse the lookup of a name as well; one about each port does not.
            (Fault::Refuse | Fault::Blackhole, Target::Name(_)) => {
                (derived.ports.or(Some(PortRange::ALL)), derived.protocol)
            }
            _ => (derived.ports, derived.protocol),
        };
        let of = (derived.target, ports, protocol);
        self.rule(reading, of, &at, derived.service, derived.path)
    }

    fn rule(
        &self,
        reading: &Reading,
        (target, ports, protocol): (Target, Option<PortRange>, Option<Protocol>),
        at: &At,
        service: String,
        path: Vec<String>,
    ) -> Rule {
        let catalog = &reading.catalog;
        let found = catalog.find(&service).map(|id| catalog.service(id));
        let place = found.map(|service| {
            let endpoint = service.provides.iter().find(|endpoint| endpoint.at == *at);
            endpoint.map_or(&service.place, |endpoint| &endpoint.place)
        });
        let root = path.last().cloned().unwrap_or_default();
        let reason = match path.len() {
            0 | 1 => format!("{root} is down in this drill"),
            _ => format!(
                "{service} cannot serve without {root}, which is down in this drill ({})",
                path.join(" → ")
            ),
        };
        let shown = ports.filter(|ports| *ports != PortRange::ALL);
        let text = format!(
            "deny {} (down: {})",
            written(&target, shown),
            path.join(" → ")
        );
        let failure = match (self.fault, &target) {
            // Who contacts a socket whose daemon is gone is told so at once.
            (Fault::Blackhole, Target::Name(_) | Target::Net(_) | Target::Any) => {
                Failure::Blackhole
            }
            _ => Failure::REFUSE,
        };
        Rule {
            rank: Rank::Final,
            layer: u16::MAX,
            ports,
            protocol,
            mode: Mode::Enforce,
            failure,
            reason: Some(reason.into()),
            owner: found.and_then(|service| service.owner.as_deref().map(Into::into)),
            derived: Some(Box::new(Derivation {
                service,
                path,
                drill: true,
            })),
            text: text.into(),
            file: place.map_or_else(|| "".into(), |place| place.file.clone()),
            line: place.map_or(1, |place| place.line),
            column: place.map_or(1, |place| place.column),
            ..Rule::new(Effect::Deny, target)
        }
    }
}
