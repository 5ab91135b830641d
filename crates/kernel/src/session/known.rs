//! What is known before the first lookup.

use std::collections::BTreeSet;
use std::net::IpAddr;

use blackstart_core::name::Name;
use libbpf_rs::{MapCore, MapFlags};

use super::found::Known;
use super::{LeftOut, Maps, Settings};
use crate::fill::{NameKeys, words};
use crate::{Error, ErrorKind, abi};

/// Addresses that are known without a lookup. More are not marked: each takes a row of `bs_leases`.
const KNOWN_MOST: usize = 4000;

/// Write what is known before the first lookup: the host's own addresses, its resolvers, and names from /etc/hosts,
/// which never ask a server.
pub(super) fn write_known(
    maps: &Maps,
    settings: &Settings<'_>,
    keys: NameKeys,
) -> Result<LeftOut, Error> {
    let failed = |error| Error::caused(ErrorKind::Io, "write the leases of /etc/hosts", error);
    let (known, own_addresses) = known_addresses(settings.known());
    let mut left_out = LeftOut {
        own_addresses,
        hosts: 0,
    };
    for (address, flags) in known {
        let key = abi::bs_address {
            addr: words(address),
        };
        let lease = abi::bs_lease {
            known: flags,
            ..abi::zeroed()
        };
        maps.bs_leases
            .update(abi::octets(&key), abi::octets(&lease), MapFlags::ANY)
            .map_err(|error| Error::caused(ErrorKind::Io, "write the known addresses", error))?;
    }
    for (text, ip) in settings.hosts {
        // A line that is no name gives no lease; resolv.conf's parser has dropped what it could tell.
        let Ok(name) = Name::parse(text) else {
            continue;
        };
        let id = keys.of_name(&name);
        let class = settings.tables.class_of_name(&name);
        let mut row: abi::bs_name = abi::zeroed();
        let wire = name.as_wire();
        row.wire[..wire.len()].copy_from_slice(wire);
        row.len = wire.len() as u16;
        row.hash = id;
        row.class_id = class;
        maps.bs_names
            .update(&id.to_ne_bytes(), abi::octets(&row), MapFlags::ANY)
            .map_err(failed)?;

        let answer = abi::bs_answer {
            fixed: 1,
            ..abi::zeroed()
        };
        let key = abi::bs_answer_key {
            name: id,
            addr: words(*ip),
        };
        maps.bs_answers
            .update(abi::octets(&key), abi::octets(&answer), MapFlags::ANY)
            .map_err(failed)?;

        let at = abi::bs_address { addr: words(*ip) };
        let mut lease: abi::bs_lease = maps
            .bs_leases
            .lookup(abi::octets(&at), MapFlags::ANY)
            .map_err(failed)?
            .and_then(|octets| abi::value(&octets))
            .unwrap_or_else(abi::zeroed);
        let used = lease.used as usize;
        let slots = lease.slot.len();
        match lease.slot[..used]
            .iter_mut()
            .find(|slot| slot.class_id == class)
        {
            Some(slot) => slot.several = 1,
            None if used < slots => {
                lease.slot[used] = abi::bs_lease_slot {
                    name: id,
                    class_id: class,
                    // A slot that was never seen is one to write over.
                    seen: 1,
                    ..abi::zeroed()
                };
                lease.used += 1;
            }
            // More classes on one address than a lease holds; the ones that came first stay.
            None => left_out.hosts += 1,
        }
        maps.bs_leases
            .update(abi::octets(&at), abi::octets(&lease), MapFlags::ANY)
            .map_err(failed)?;
    }
    Ok(left_out)
}

/// The addresses that are known without a lookup, and as what; and how many more there would be. The resolvers come
/// first: without one, no name could be looked up under an allow-list.
pub(super) fn known_addresses(of: Known<'_>) -> (Vec<(IpAddr, u32)>, usize) {
    let (own, resolver) = (
        abi::bs_known::BS_KNOWN_OWN.0,
        abi::bs_known::BS_KNOWN_RESOLVER.0,
    );
    let canonical = |addresses: &[IpAddr]| -> BTreeSet<IpAddr> {
        addresses.iter().map(IpAddr::to_canonical).collect()
    };
    let (own_addresses, resolvers) = (canonical(of.own_addresses), canonical(of.resolvers));
    let both = |address: &IpAddr| {
        if own_addresses.contains(address) {
            own
        } else {
            0
        }
    };
    let mut known: Vec<_> = resolvers
        .iter()
        .map(|address| (*address, resolver | both(address)))
        .collect();
    known.extend(
        own_addresses
            .difference(&resolvers)
            .map(|address| (*address, own)),
    );
    let more = known.len().saturating_sub(KNOWN_MOST);
    known.truncate(KNOWN_MOST);
    (known, more)
}
