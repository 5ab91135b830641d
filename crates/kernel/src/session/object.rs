//! The BPF object before it is loaded: which programs, over which maps, with which constants.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;

use blackstart_core::tables::Uses;
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};

use super::feature::{Feature, is_of};
use super::forward::{self, Listening};
use crate::abi;
use crate::fill::NameKeys;
use crate::tracer::Enrolled;
use crate::{Error, ErrorKind};

/// The object, from which the programs of `features` are to be loaded.
pub(super) fn opened(
    features: &BTreeSet<Feature>,
    forwards: bool,
) -> Result<abi::OpenBlackstartSkel<'static>, Error> {
    // The skeleton borrows this for its whole life, and a process supervises one run: it is never given back.
    let storage = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = abi::BlackstartSkelBuilder::default()
        .open(storage)
        .map_err(|error| Error::caused(ErrorKind::Unsupported, "open the BPF object", error))?;
    for mut program in open.open_object_mut().progs_mut() {
        let spared = !forwards && forward::PEERS.iter().any(|name| program.name() == *name);
        let wanted = features.iter().any(|feature| is_of(&program, *feature));
        program.set_autoload(wanted && !spared);
    }
    open.maps
        .data_types
        .set_autocreate(false)
        .map_err(|error| {
            Error::caused(
                ErrorKind::Unsupported,
                "leave out the types' section",
                error,
            )
        })?;
    Ok(open)
}

/// Whether the host's processes are traced by a tracer of many, before the programs are loaded.
pub(super) fn share(
    open: &mut abi::OpenBlackstartSkel<'_>,
    enrolled: Option<&Enrolled>,
) -> Result<(), Error> {
    let failed = |error| Error::caused(ErrorKind::Unsupported, "share a tracer", error);
    let homes = &mut open.maps.bs_homes;
    let Some(enrolled) = enrolled else {
        return homes.set_autocreate(false).map_err(failed);
    };
    homes.reuse_fd(enrolled.homes()).map_err(failed)?;
    let constants = open.maps.rodata_data.as_deref_mut();
    let constants = constants.expect("the object has constants");
    constants.shared = abi::bs_shared {
        tracing: 1,
        guard: enrolled.number(),
    };
    Ok(())
}

/// What is constant for the programs, before they are loaded.
pub(super) fn set_constants(
    open: &mut abi::OpenBlackstartSkel<'_>,
    keys: NameKeys,
    spared: abi::bs_spared,
    forwarder: Option<&Listening>,
) {
    let constants = open.maps.rodata_data.as_deref_mut();
    let constants = constants.expect("the object has constants");
    constants.config.name_key = keys.name;
    constants.config.label_key = keys.label;
    constants.config.multiplier = keys.multiplier;
    constants.spared = spared;
    constants.forward = forwarder.map_or_else(abi::zeroed, Listening::row);
}

/// Whether contacts that are recorded when they are over are to be told of those that were refused.
pub(super) fn note_refusals(open: &mut abi::OpenBlackstartSkel<'_>, features: &BTreeSet<Feature>) {
    let over = [Feature::Contacts, Feature::ContactCalls];
    let both = features.contains(&Feature::SocketNames)
        && over.iter().any(|feature| features.contains(feature));
    let constants = open.maps.rodata_data.as_deref_mut();
    let constants = constants.expect("the object has constants");
    constants.reach_noted = u32::from(both);
}

/// What a run's first programs go without: all that its policy does not use, and what only a change of policy needs.
pub(super) fn spared(uses: Uses, features: &BTreeSet<Feature>) -> abi::bs_spared {
    let stays = features.iter().any(|feature| feature.judges_whole());
    abi::bs_spared {
        reload: 1,
        processes: u32::from(!uses.processes && !stays),
        prefixes: u32::from(!uses.prefixes),
        sockets: u32::from(!uses.sockets && !stays),
        refusals: u32::from(!uses.refusals),
        expiry: u32::from(!uses.expiry),
        claims: u32::from(!features.contains(&Feature::Claims)),
    }
}
