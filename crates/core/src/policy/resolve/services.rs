//! What the catalog makes of `protect:` and of `service:`.

use super::super::target::written;
use super::super::{
    Derivation, Effect, Place, PortRange, Rank, Rule, ServiceRule, Target, Written,
};
use super::{Resolving, Spans, Stratum};
use crate::catalog::{self, Catalog, UnknownService};
use crate::path::PathPattern;
use crate::tables::Protocol;

/// Something that a service provides, by which other services it came to be spoken of.
struct Provided {
    target: Target,
    ports: Option<PortRange>,
    protocol: Option<Protocol>,
    service: String,
    path: Vec<String>,
}

fn provided(derivation: catalog::Derivation) -> (Vec<Provided>, Vec<String>) {
    let rules = derivation.rules.into_iter().map(|derived| Provided {
        target: derived.target,
        ports: derived.ports,
        protocol: derived.protocol,
        service: derived.service,
        path: derived.path,
    });
    // The catalog has no socket whose path could not be a pattern.
    let sockets = derivation.sockets.into_iter().filter_map(|derived| {
        Some(Provided {
            target: Target::Unix(PathPattern::exact_socket(&derived.socket).ok()?),
            ports: None,
            protocol: None,
            service: derived.service,
            path: derived.path,
        })
    });
    (rules.chain(sockets).collect(), derivation.silent)
}

impl Resolving<'_> {
    /// The catalog, if what it says of a service can be relied upon; or else why not.
    fn catalog_for(&mut self, service: &Written<String>) -> Option<&Catalog> {
        let name = &service.value;
        let (message, help) = match self.catalog {
            Some(reading) if !reading.partial => return Some(&reading.catalog),
            Some(_) => (
                format!(
                    "what {name} provides is not known: the catalog could not be read as a whole"
                ),
                "mend the catalog first",
            ),
            None => (
                format!("what {name} provides is not known without a catalog"),
                "name its directory with `--catalog DIR`",
            ),
        };
        self.error(&service.place, message, help.to_owned());
        None
    }

    fn unknown(&mut self, unknown: &UnknownService, place: &Place) {
        let help = match &unknown.nearest {
            Some(near) => format!("did you mean `{near}`?"),
            None => "give it a file in the catalog, or remove it here".to_owned(),
        };
        self.error(place, unknown.to_string(), help);
    }

    /// Deny what the protected services provide, and what needs them.
    pub(super) fn protect(
        &mut self,
        protect: Vec<Written<String>>,
        stratum: &Stratum,
        spans: &mut Spans,
    ) {
        let Some(catalog) = protect.first().and_then(|first| self.catalog_for(first)) else {
            return;
        };
        let names: Vec<&str> = protect.iter().map(|name| name.value.as_str()).collect();
        let derivation = match catalog::protect(catalog, &names) {
            Ok(derivation) => derivation,
            Err(unknown) => {
                for unknown in unknown {
                    if let Some(name) = protect.iter().find(|name| name.value == unknown.name) {
                        self.unknown(&unknown, &name.place);
                    }
                }
                return;
            }
        };
        self.policy
            .protect
            .extend(names.into_iter().map(str::to_owned));
        self.policy.protect.sort_unstable();
        self.policy.protect.dedup();
        let (provided, silent) = provided(derivation);
        for service in silent {
            let message = format!(
                "{service} ought to be out of reach as well, and the catalog does not say what it provides"
            );
            let help =
                "say under `provides:` by which names and addresses it is reached".to_owned();
            self.warning(&protect[0].place, message, help);
        }
        for each in provided {
            let protected = each.path.last().cloned().unwrap_or_default();
            let at = protect.iter().find(|name| name.value == protected);
            let place = at.unwrap_or(&protect[0]).place.clone();
            let through = each.path.join(" → ");
            let (source, reason) = if each.path.len() > 1 {
                (
                    format!("protect {protected}: {through}"),
                    format!(
                        "{} cannot serve without {protected}, which is protected ({through})",
                        each.service
                    ),
                )
            } else {
                (
                    format!("protect {protected}"),
                    format!("{protected} is protected, and this is what it provides"),
                )
            };
            let like = Rule {
                reason: Some(reason.into()),
                file: place.file.clone(),
                line: place.line,
                column: place.column,
                ..Rule::new(Effect::Deny, Target::Any)
            };
            if let Some(mut rule) = self.derived(&like, each, &source) {
                self.enter(&mut rule, None, None, stratum);
                self.push(rule, &place, spans);
            }
        }
    }

    /// Allow or deny what a service provides.
    pub(super) fn service_rule(
        &mut self,
        service_rule: ServiceRule,
        stratum: &Stratum,
        spans: &mut Spans,
    ) {
        let ServiceRule {
            service,
            mut like,
            mode,
        } = service_rule;
        self.enter(&mut like, mode, Some(&service.place), stratum);
        self.of_service(&like, &service, spans);
    }

    /// The rules that are like another, about all that a service provides.
    pub(super) fn of_service(&mut self, like: &Rule, service: &Written<String>, spans: &mut Spans) {
        let Some(catalog) = self.catalog_for(service) else {
            return;
        };
        let derivation = match catalog::provided(catalog, &service.value) {
            Ok(derivation) => derivation,
            Err(unknown) => return self.unknown(&unknown, &service.place),
        };
        let (provided, _) = provided(derivation);
        let source = format!("service {}", service.value);
        let before = self.policy.rules.len();
        for each in provided {
            if let Some(rule) = self.derived(like, each, &source) {
                self.push(rule, &service.place, spans);
            }
        }
        if self.policy.rules.len() == before {
            let message = format!(
                "`{}` has no effect: the catalog has nothing of the kind that {} provides",
                like.text, service.value
            );
            let help =
                "say under its `provides:` by which names and addresses it is reached".to_owned();
            self.warning(&service.place, message, help);
        }
    }

    /// The rule that is like another, about what is provided; none if that rule's ports or protocol leave it out.
    fn derived(&self, like: &Rule, provided: Provided, source: &str) -> Option<Rule> {
        let ports = match provided.target {
            Target::Unix(_) if like.ports.is_some() || like.protocol.is_some() => return None,
            _ => PortRange::within(like.ports, provided.ports)?,
        };
        let protocol = match (like.protocol, provided.protocol) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let owner = self.catalog.and_then(|reading| {
            let catalog = &reading.catalog;
            catalog
                .service(catalog.find(&provided.service)?)
                .owner
                .clone()
        });
        let what = match like.rank {
            Rank::Waiver => "waiver for".to_owned(),
            Rank::Plain | Rank::Final => like.effect.to_string(),
        };
        let mut text = format!("{what} {}", written(&provided.target, ports));
        super::super::parse::qualify(&mut text, protocol, like.process.as_ref());
        text = format!("{text} ({source})");
        Some(Rule {
            target: provided.target,
            ports,
            protocol,
            owner: like.owner.clone().or(owner.map(Into::into)),
            derived: Some(Box::new(Derivation {
                service: provided.service,
                path: provided.path,
                drill: false,
            })),
            text: text.into(),
            ..like.clone()
        })
    }
}
