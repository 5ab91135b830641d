//! From what each file says to one catalog: needs find their services, and what is said twice comes out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use ipnet::IpNet;

use super::owners::{Owners, Provided};
use super::read::{Draft, DraftEndpoint};
use super::{At, Catalog, Need, Phase, Place, Service, ServiceId};
use crate::document::{Reader, nearest_of};
use crate::policy::{PortRange, Target};
use crate::tables::Protocol;

/// How many names are compared at most to guess what was meant; a guess is a courtesy.
const COMPARISONS: usize = 2_000_000;

/// `readers` are those of the files, by number. `lacking` says that there are documents that gave no
/// service.
pub(super) fn join(mut drafts: Vec<Draft>, readers: &mut [Reader<'_>], lacking: bool) -> Catalog {
    // Stable: of two with one name, the one that was read first stays, and what a person wrote before that.
    drafts.sort_by(|a, b| (&a.name, a.imported).cmp(&(&b.name, b.imported)));
    drafts.dedup_by(|later, first| {
        let same = later.name == first.name;
        if same && later.imported {
            take_in(first, later);
        } else if same {
            readers[later.file].error(
                &later.span,
                format!("there is a service `{}` already", later.name),
                Some(format!(
                    "it stands first in {}; keep one of the two",
                    first.place
                )),
            );
        }
        same
    });
    let (services, origins) = resolve(drafts, readers, lacking);
    let owners = endpoints(&services, &origins, readers);
    Catalog { services, owners }
}

/// What a program found of a service adds to what is known of it, and changes nothing that is said.
fn take_in(known: &mut Draft, found: &mut Draft) {
    known.owner = known.owner.take().or(found.owner.take());
    known.tier = known.tier.or(found.tier);
    let new = |endpoint: &DraftEndpoint| {
        let is = |known: &DraftEndpoint| known.endpoint.at == endpoint.endpoint.at;
        !known.provides.iter().any(is)
    };
    let provides: Vec<_> = found.provides.drain(..).filter(new).collect();
    known.provides.extend(provides);
    known.needs.append(&mut found.needs);
}

/// Where something that a service provides was written.
struct Origin {
    file: usize,
    span: Range<usize>,
    imported: bool,
}

fn resolve(
    drafts: Vec<Draft>,
    readers: &mut [Reader<'_>],
    lacking: bool,
) -> (Vec<Service>, Vec<Vec<Origin>>) {
    let names: Vec<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
    let ids: HashMap<&str, ServiceId> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), ServiceId::new(index)))
        .collect();
    let mut guesses = Guesses {
        names: &names,
        made: HashMap::new(),
        comparisons: 0,
    };
    let mut services = Vec::with_capacity(drafts.len());
    let mut origins = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let mut needs: Vec<Need> = Vec::with_capacity(draft.needs.len());
        let mut seen: HashMap<(ServiceId, Phase), usize> = HashMap::new();
        for need in draft.needs {
            let reader = &mut readers[need.file];
            let Some(&service) = ids.get(need.service.as_str()) else {
                let help = match guesses.nearest(&need.service) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if lacking => {
                        "it may stand in a document that could not be read".to_owned()
                    }
                    None => "add a document for it, or remove the need".to_owned(),
                };
                reader.error(
                    &need.span,
                    format!("no service is called {:?}", need.service),
                    Some(help),
                );
                continue;
            };
            match seen.entry((service, need.phase)) {
                // Evidence adds up.
                Entry::Occupied(_) if need.format.is_some() => needs.push(Need {
                    service,
                    phase: need.phase,
                    claim: None,
                    reason: None,
                    format: need.format,
                    place: need.place,
                }),
                Entry::Occupied(first) => reader.warning(
                    &need.span,
                    format!("the need of `{}` stands twice", need.service),
                    Some(format!(
                        "it stands first in line {}; keep one of the two",
                        needs[*first.get()].place.line
                    )),
                ),
                Entry::Vacant(entry) => {
                    entry.insert(needs.len());
                    needs.push(Need {
                        service,
                        phase: need.phase,
                        claim: need.claim,
                        reason: need.reason,
                        format: need.format,
                        place: need.place,
                    });
                }
            }
        }
        let (provides, of_provides) = draft
            .provides
            .into_iter()
            .map(|provided| {
                let origin = Origin {
                    file: provided.file,
                    span: provided.span,
                    imported: provided.imported,
                };
                (provided.endpoint, origin)
            })
            .unzip();
        services.push(Service {
            name: draft.name,
            owner: draft.owner,
            tier: draft.tier,
            provides,
            needs,
            place: draft.place,
        });
        origins.push(of_provides);
    }
    (services, origins)
}

/// What was probably meant by names that no service has.
struct Guesses<'a> {
    names: &'a [String],
    made: HashMap<String, Option<&'a str>>,
    comparisons: usize,
}

impl<'a> Guesses<'a> {
    fn nearest(&mut self, text: &str) -> Option<&'a str> {
        if let Some(made) = self.made.get(text) {
            return *made;
        }
        if self.comparisons >= COMPARISONS {
            return None;
        }
        self.comparisons += self.names.len();
        let guess = nearest_of(text, self.names.iter().map(String::as_str));
        self.made.insert(text.to_owned(), guess);
        guess
    }
}

/// Index what is provided. What is provided twice is an error, addresses within those of another service
/// are a warning.
fn endpoints(services: &[Service], origins: &[Vec<Origin>], readers: &mut [Reader<'_>]) -> Owners {
    let mut owners = Owners::default();
    let mut first: HashMap<&At, Provided> = HashMap::new();
    let all = services.iter().enumerate().flat_map(|(number, service)| {
        let provided = move |index| Provided {
            service: ServiceId::new(number),
            index,
        };
        (0..service.provides.len() as u32).map(provided)
    });
    let mut order: Vec<Provided> = all.collect();
    let origin = |provided: Provided| &origins[provided.service.index()][provided.index as usize];
    // First is what a person wrote, and then what was read first, not what comes first by name.
    order.sort_by_key(|provided| {
        let origin = origin(*provided);
        (origin.imported, origin.file, origin.span.start)
    });
    for &provided in &order {
        let endpoint = provided.endpoint(services);
        let earlier = match first.entry(&endpoint.at) {
            Entry::Vacant(entry) => {
                entry.insert(provided);
                owners.add(&endpoint.at, provided);
                continue;
            }
            Entry::Occupied(entry) => *entry.get(),
        };
        let Origin {
            file,
            span,
            imported,
        } = origin(provided);
        let reader = &mut readers[*file];
        let place = &earlier.endpoint(services).place;
        let message = format!(
            "`{}` is provided by `{}` already",
            endpoint.text,
            services[earlier.service.index()].name
        );
        if earlier.service == provided.service {
            reader.warning(
                span,
                format!("`{}` stands twice", endpoint.text),
                Some(format!("it stands first in {place}; keep one of the two")),
            );
        } else if *imported {
            let name = &services[provided.service.index()].name;
            let of = &services[earlier.service.index()].name;
            let help = format!(
                "see {place}, which counts; if the two are one service, import it with `--as {name}={of}`"
            );
            reader.warning(span, message, Some(help));
        } else {
            let help = format!("see {place}; an endpoint has one owner");
            reader.error(span, message, Some(help));
        }
    }
    let by_port = ByPort::of(services, &order, &first);
    for provided in order {
        if let Some((around, place)) = overlap(services, &owners, &by_port, provided) {
            let Origin { file, span, .. } = origin(provided);
            let endpoint = provided.endpoint(services);
            readers[*file].warning(
                span,
                format!("`{}` overlaps with {around}", endpoint.text),
                Some(format!("see {place}; what is described more closely wins")),
            );
        }
    }
    owners
}

/// What is provided of each prefix, by port: one address may have as many services as there are ports.
struct ByPort {
    prefixes: HashMap<IpNet, Vec<Ports>>,
}

/// One of them, in the order of its first port.
struct Ports {
    first: u16,
    last: u16,
    /// The highest port of this one and of all before it.
    highest: u16,
    /// Its place among all, for which comes first.
    at: usize,
    provided: Provided,
}

/// How many are looked at for one that overlaps. Where more have ports in common, others of them have told.
const CANDIDATES: usize = 1_000;

impl ByPort {
    /// Of those that count: of two that are the same, the first.
    fn of(services: &[Service], order: &[Provided], first: &HashMap<&At, Provided>) -> Self {
        let mut prefixes: HashMap<IpNet, Vec<Ports>> = HashMap::new();
        for (at, &provided) in order.iter().enumerate() {
            let endpoint = provided.endpoint(services);
            let At::Net { target, ports, .. } = &endpoint.at else {
                continue;
            };
            if first.get(&endpoint.at) != Some(&provided) {
                continue;
            }
            let (first, last) = ports.map_or((0, u16::MAX), |ports| (ports.first, ports.last));
            for net in target.prefixes() {
                prefixes.entry(net).or_default().push(Ports {
                    first,
                    last,
                    highest: last,
                    at,
                    provided,
                });
            }
        }
        for ports in prefixes.values_mut() {
            ports.sort_by_key(|one| (one.first, one.at));
            let mut highest = 0;
            for one in ports {
                highest = one.last.max(highest);
                one.highest = highest;
            }
        }
        Self { prefixes }
    }

    /// Those of a prefix that have a port in common with these.
    fn meeting(&self, net: IpNet, ports: Option<PortRange>) -> impl Iterator<Item = &Ports> {
        let (first, last) = ports.map_or((0, u16::MAX), |ports| (ports.first, ports.last));
        let all = self.prefixes.get(&net).map_or(&[][..], Vec::as_slice);
        let begun = all.partition_point(|one| one.first <= last);
        let begun = all[..begun].iter().rev();
        begun
            .take_while(move |one| one.highest >= first)
            .filter(move |one| one.last >= first)
            .take(CANDIDATES)
    }
}

/// The nearest prefix of another service that takes in some of what `provided` does.
fn overlap<'s>(
    services: &'s [Service],
    owners: &Owners,
    by_port: &ByPort,
    provided: Provided,
) -> Option<(String, &'s Place)> {
    let endpoint = provided.endpoint(services);
    let At::Net {
        target: Target::Net(net),
        ports,
        protocol,
    } = &endpoint.at
    else {
        return None;
    };
    let meets = |other: Provided| {
        let theirs = &other.endpoint(services).at;
        let At::Net {
            protocol: their_protocol,
            ..
        } = theirs
        else {
            return false;
        };
        // The same twice has been told already, and of two with one prefix only the later one tells.
        other.service != provided.service
            && *theirs != endpoint.at
            && protocols_meet(*protocol, *their_protocol)
    };
    owners
        .around(*net)
        .find_map(|(around, _)| {
            let meeting = by_port.meeting(around, *ports);
            let fit = |other: &&Ports| {
                meets(other.provided) && (around != *net || other.provided < provided)
            };
            meeting.filter(fit).min_by_key(|other| other.at)
        })
        .map(|other| {
            let other = other.provided;
            let theirs = other.endpoint(services);
            let name = &services[other.service.index()].name;
            (format!("`{}` of `{name}`", theirs.text), &theirs.place)
        })
}

fn protocols_meet(a: Option<Protocol>, b: Option<Protocol>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}
