//! From a report to what its run reached for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::Contact;
use super::script::Naming;
use crate::catalog::{Catalog, Destination, ServiceId, Strength};
use crate::name::Name;
use crate::report::exit_code::{GATED, NOTHING_RAN};
use crate::report::{
    Flow, Report, Subject, Time, Verdict, image_name, rule_text, strangers, told_by_another,
};
use crate::tables::{
    Protocol, RULE_LOCAL, RULE_RESOLVER, RULE_RESOLVER_SOCKET, RULE_REVERSE, RULE_SEARCH,
};

/// Where a contact leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the deployed service's own instance on its own host.
    Own,
    /// To a service.
    Service(ServiceId),
    /// To nobody's.
    Unowned,
}

/// What tells one contact of a run from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    destination: String,
    subject: Option<u64>,
    verdict: Verdict,
    /// One destination may be reached at addresses that lead to different services.
    reach: Option<Option<ServiceId>>,
}

#[derive(Debug)]
struct Row {
    named: bool,
    /// Whoever was refused this went without it, and took no other way that Blackstart leads to.
    without: bool,
    attempts: u64,
    first_seen: Time,
    last_seen: Time,
}

/// Every contact of a run that deploys `service`, in the order of destinations.
pub(super) fn contacts(report: &Report, service: &str, catalog: &Catalog) -> Vec<(Reach, Contact)> {
    let lens = Lens::new(report, service, catalog);
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    lens.flows(&mut rows);
    lens.lookups(&mut rows);
    lens.sockets(&mut rows);
    rows.into_iter()
        .map(|(key, row)| lens.contact(key, row))
        .collect()
}

struct Lens<'a> {
    report: &'a Report,
    catalog: &'a Catalog,
    service: Option<ServiceId>,
    naming: Naming,
    subjects: HashMap<u64, &'a Subject>,
    /// The names that a name led to.
    chains: HashMap<&'a str, Vec<&'a str>>,
    /// The processes of units that may have started for reasons of their own.
    strangers: HashSet<u64>,
    child: Child,
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Succeeded,
    Failed,
    Unknown,
}

impl<'a> Lens<'a> {
    fn new(report: &'a Report, service: &str, catalog: &'a Catalog) -> Self {
        let mut chains: HashMap<&str, Vec<&str>> = HashMap::new();
        for name in &report.names {
            let chain = chains.entry(&name.name).or_default();
            chain.extend(name.chain.iter().map(String::as_str));
        }
        Self {
            report,
            catalog,
            service: catalog.find(service),
            naming: Naming::of(report),
            subjects: report.subjects.iter().map(|s| (s.id, s)).collect(),
            chains,
            strangers: strangers(report),
            child: match report.run.exit_code {
                None | Some(NOTHING_RAN) => Child::Unknown,
                Some(0 | GATED) => Child::Succeeded,
                Some(_) => Child::Failed,
            },
        }
    }

    fn flows(&self, rows: &mut BTreeMap<Key, Row>) {
        let told = told_by_another(&self.report.flows);
        for (flow, told) in self.report.flows.iter().zip(told) {
            // Who connects a datagram socket to port 0 asks for the way, and nothing else.
            if told || (flow.is_route_probe() && flow.port == 0) || self.is_stranger(flow.subject) {
                continue;
            }
            let owner = self.owner_of(flow);
            let reach = if self.is_local(flow) && (owner.is_none() || owner == self.service) {
                None
            } else if owner.is_none() && self.is_resolver(flow) {
                // The host's resolver is no choice of the deployment's.
                continue;
            } else {
                Some(owner)
            };
            let host = match (&flow.name, flow.address) {
                (Some(name), _) => name.clone(),
                (None, IpAddr::V6(v6)) if flow.port != 0 => format!("[{v6}]"),
                (None, address) => address.to_string(),
            };
            let key = Key {
                destination: match flow.port {
                    0 => host,
                    port => format!("{host}:{port}"),
                },
                subject: flow.subject,
                verdict: flow.verdict,
                reach,
            };
            let named = self.naming.names(flow.name.as_deref(), Some(flow.address));
            let row = Row {
                named,
                without: true,
                attempts: flow.attempts,
                first_seen: flow.first_seen.clone(),
                last_seen: flow.last_seen.clone(),
            };
            add(rows, key, row);
        }
    }

    /// Lookups that no attempt followed: where the name was refused, or not answered, they are all there is.
    fn lookups(&self, rows: &mut BTreeMap<Key, Row>) {
        let reached: HashSet<&str> = self
            .report
            .flows
            .iter()
            .filter_map(|flow| flow.name.as_deref())
            .collect();
        for lookup in &self.report.names {
            if reached.contains(lookup.name.as_str())
                || lookup.rule == rule_text(None, RULE_SEARCH)
                || lookup.rule == rule_text(None, RULE_REVERSE)
                || self.is_stranger(lookup.subject)
            {
                continue;
            }
            let owner = self.owner_of_name(&lookup.name, None);
            let refused = matches!(lookup.verdict, Verdict::Deny | Verdict::WouldDeny);
            // What nobody provides, nobody refuses and nobody went to was only asked about.
            if owner.is_none() && !refused {
                continue;
            }
            let key = Key {
                destination: lookup.name.clone(),
                subject: lookup.subject,
                verdict: lookup.verdict,
                reach: Some(owner),
            };
            let row = Row {
                named: self.naming.names(Some(&lookup.name), None),
                without: true,
                attempts: lookup.queries,
                first_seen: lookup.first_seen.clone(),
                last_seen: lookup.last_seen.clone(),
            };
            add(rows, key, row);
        }
    }

    /// A socket is always on this host: if nobody provides it, it is the host's own, and the report lists it
    /// as a delegate.
    fn sockets(&self, rows: &mut BTreeMap<Key, Row>) {
        for delegate in &self.report.delegates {
            let owner = self.catalog.owner_of(&Destination::Unix(&delegate.path));
            let Some(owner) = owner.filter(|_| !self.is_stranger(delegate.subject)) else {
                continue;
            };
            let key = Key {
                destination: format!("unix:{}", delegate.path),
                subject: delegate.subject,
                verdict: delegate.verdict,
                reach: (Some(owner) != self.service).then_some(Some(owner)),
            };
            // When it was met is not recorded: some time while the process lived.
            let subject = delegate.subject.and_then(|id| self.subjects.get(&id));
            let run = &self.report.run;
            let row = Row {
                named: self.naming.names_path(&delegate.path),
                // Whoever is kept from a resolver's socket asks by DNS, and goes on.
                without: delegate.rule != rule_text(None, RULE_RESOLVER_SOCKET),
                attempts: delegate.attempts,
                first_seen: subject.map_or(&run.started, |s| &s.started).clone(),
                last_seen: subject
                    .and_then(|s| s.ended.as_ref())
                    .or(run.ended.as_ref())
                    .unwrap_or(&run.started)
                    .clone(),
            };
            add(rows, key, row);
        }
    }

    fn is_stranger(&self, subject: Option<u64>) -> bool {
        subject.is_some_and(|id| self.strangers.contains(&id))
    }

    fn owner_of(&self, flow: &Flow) -> Option<ServiceId> {
        let by_name = flow
            .name
            .as_deref()
            .and_then(|name| self.owner_of_name(name, Some((flow.port, &flow.protocol))));
        by_name.or_else(|| {
            self.catalog.owner_of(&Destination::Net {
                name: None,
                address: Some(flow.address),
                port: Some(flow.port),
                protocol: Some(protocol(&flow.protocol)),
            })
        })
    }

    /// A name belongs to whom it, or else the nearest name that it leads to, belongs.
    fn owner_of_name(&self, name: &str, at: Option<(u16, &String)>) -> Option<ServiceId> {
        let chain = self.chains.get(name).into_iter().flatten().copied();
        std::iter::once(name).chain(chain).find_map(|name| {
            self.catalog.owner_of(&Destination::Net {
                name: Some(&Name::parse(name).ok()?),
                address: None,
                port: at.map(|(port, _)| port),
                protocol: at.map(|(_, text)| protocol(text)),
            })
        })
    }

    /// What a script names is the deployment's choice, whoever else asks there.
    fn is_resolver(&self, flow: &Flow) -> bool {
        flow.rule == rule_text(None, RULE_RESOLVER)
            || self.report.run.asks_resolver(flow) && !self.naming.names(None, Some(flow.address))
    }

    fn is_local(&self, flow: &Flow) -> bool {
        flow.address.to_canonical().is_loopback()
            || self.report.run.addresses.contains(&flow.address)
            || flow.rule == rule_text(None, RULE_LOCAL)
    }

    fn contact(&self, key: Key, row: Row) -> (Reach, Contact) {
        let chain = self.chain(key.subject);
        let reach = match key.reach {
            None => Reach::Own,
            Some(Some(service)) => Reach::Service(service),
            Some(None) => Reach::Unowned,
        };
        let run = &self.report.run;
        let mut names: Vec<String> = chain
            .iter()
            .map(|subject| image_name(&subject.exe, &subject.argv).to_owned())
            .collect();
        // A shell and its subshells are one to whoever reads it.
        names.dedup();
        let contact = Contact {
            run: run.id.clone(),
            started: run.started.clone(),
            host: run.host.clone(),
            subject: key.subject,
            chain: names,
            command: chain.first().map(|s| s.argv.clone()).unwrap_or_default(),
            destination: key.destination,
            verdict: key.verdict,
            named: row.named,
            attempts: row.attempts,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            shown: (key.verdict == Verdict::Deny && row.without)
                .then(|| self.shown(&chain))
                .flatten(),
        };
        (reach, contact)
    }

    /// A process and its ancestors. A report comes from a file, and may contradict itself.
    fn chain(&self, subject: Option<u64>) -> Vec<&'a Subject> {
        let mut chain = Vec::new();
        let mut met = BTreeSet::new();
        let mut next = subject;
        while let Some(subject) = next.and_then(|id| self.subjects.get(&id)) {
            if !met.insert(subject.id) {
                break;
            }
            chain.push(*subject);
            next = subject.parent;
        }
        chain
    }

    /// What the refusal of a contact shows: the command did well without, or the failure went all the way up.
    fn shown(&self, chain: &[&Subject]) -> Option<Strength> {
        let failed = |subject: &&Subject| subject.exit.is_some_and(|exit| exit != 0);
        match self.child {
            Child::Succeeded => Some(Strength::Soft),
            Child::Failed => {
                // An image that made place for the next has no end of its own: it is the same process.
                let mut ends = chain.iter().enumerate().filter(|(index, subject)| {
                    let replaced = index
                        .checked_sub(1)
                        .is_some_and(|below| chain[below].pid == subject.pid);
                    !(replaced && subject.exit.is_none())
                });
                (!chain.is_empty() && ends.all(|(_, subject)| failed(subject)))
                    .then_some(Strength::Hard)
            }
            Child::Unknown => None,
        }
    }
}

fn add(rows: &mut BTreeMap<Key, Row>, key: Key, row: Row) {
    let Some(known) = rows.get_mut(&key) else {
        rows.insert(key, row);
        return;
    };
    known.named |= row.named;
    known.without |= row.without;
    known.attempts = known.attempts.saturating_add(row.attempts);
    // RFC 3339 in UTC with microseconds: the order of the texts is that of the times.
    if row.first_seen < known.first_seen {
        known.first_seen = row.first_seen;
    }
    if row.last_seen > known.last_seen {
        known.last_seen = row.last_seen;
    }
}

fn protocol(text: &str) -> Protocol {
    match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Other,
    }
}
