//! A run's programs and maps in the hands of another process than the one that loaded them.
//!
//! What is pinned are the links, and the maps that are the record. All others are found by the programs, which hold
//! them: a program that is attached says by which ids. Those that no attached program uses are pinned as well, if
//! the guard is one among many: only these are taken over.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;

use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Program, libbpf_sys};

use super::events::View;
use super::forward::{Listening, Unwritten};
use super::live::Live;
use super::maps::Maps;
use super::orphan::watch_pinned;
use super::reload::Room;
use super::{LeftOut, Session, layout_dir};
use crate::abi;
use crate::fill::NameKeys;
use crate::read::Record;
use crate::{Error, ErrorKind, Feature, tracer};

/// What the kernel keeps of a map's name.
const NAME_MOST: usize = 15;

impl Session {
    /// Take over what is pinned below `dir`: the record, the live view, and the supervisor's sign of life. `features` are
    /// those that were told by [`Session::features`], `rules` how many rules the run's policy has.
    ///
    /// What is attached stays as it is, and dropping the session leaves it. The policy cannot be changed any more.
    ///
    /// # Errors
    /// [`ErrorKind::Layout`] for what another release has left, [`ErrorKind::Io`] where something of it is gone.
    pub fn resume(dir: &Path, features: &[String], rules: u32) -> Result<Self, Error> {
        let layout = layout_dir(dir);
        if !layout.is_dir() {
            let doing = format!("take over {}: it is of another release", dir.display());
            return Err(Error::new(ErrorKind::Layout, doing));
        }
        let found = held_maps(&layout)?;
        let find = |name: &str| {
            let failed =
                |error| Error::caused(ErrorKind::Io, format!("find the map {name}"), error);
            let mut held = found.iter();
            match held.find(|(known, _)| is_called(known, name)) {
                Some((_, map)) => MapHandle::try_from(map).map_err(failed),
                // Of a program that is not attached.
                None => MapHandle::from_pinned_path(layout.join(name)).map_err(failed),
            }
        };
        let constants = constants(&find("rodata")?)?;
        let maps = Maps::by_name(find)?;
        let mut record = Record::new(find)?;
        watch_pinned(&mut record, &layout);
        let live = Live::new(&maps.bss)?;
        let view = View::of(&maps.bs_events)?;
        let named = |feature: &Feature| features.iter().any(|name| name == feature.name());
        let features: BTreeSet<Feature> = Feature::ALL.into_iter().filter(named).collect();
        let room = Room::of(&maps);
        Ok(Self {
            view,
            links: Vec::new(),
            // Whoever removes the pins takes it out of the tracer's tables.
            enrolled: None,
            record,
            maps,
            skeleton: None,
            live,
            features,
            pins: Some(dir.to_owned()),
            cgroup: None,
            keys: NameKeys {
                name: constants.config.name_key,
                label: constants.config.label_key,
                multiplier: constants.config.multiplier,
            },
            room,
            whole: None,
            filler: None,
            reader: None,
            rules,
            first_rule: 0,
            forwarder: Listening::of_row(&constants.forward),
            unwritten: Unwritten::default(),
            left_out: LeftOut::default(),
            nameless: false,
            one_of_many: true,
        })
    }
}

impl Session {
    /// Pin the maps that nobody would hold without this process.
    pub(super) fn pin_unheld(&self, layout: &Path) -> Result<(), Error> {
        let held = held_maps(layout)?;
        for (name, map) in self.maps.named() {
            let at = layout.join(name);
            if at.exists() || held.iter().any(|(known, _)| is_called(known, name)) {
                continue;
            }
            let failed = |error| Error::caused(ErrorKind::Io, format!("pin the map {name}"), error);
            let mut own = MapHandle::try_from(map).map_err(failed)?;
            own.pin(&at).map_err(failed)?;
        }
        Ok(())
    }
}

/// Is this name of a map, which the kernel has cut off, the one of ours?
fn is_called(known: &str, name: &str) -> bool {
    match name {
        // libbpf puts the object's name before it.
        "bss" | "rodata" => known
            .strip_suffix(name)
            .is_some_and(|before| before.ends_with('.')),
        name => known == &name[..name.len().min(NAME_MOST)],
    }
}

/// The maps of all programs whose links are pinned, and of those that a pinned tracer calls.
fn held_maps(layout: &Path) -> Result<Vec<(String, MapHandle)>, Error> {
    let failed = |doing: &str, error: libbpf_rs::Error| {
        let doing = format!("{doing} in {}", layout.display());
        Error::caused(ErrorKind::Io, doing, error)
    };
    let mut programs = tracer::called_by_pinned(layout);
    for entry in fs::read_dir(layout).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with("link_") {
            continue;
        }
        let link = Link::open(entry.path()).map_err(|error| failed("open a link", error))?;
        let about = link
            .info()
            .map_err(|error| failed("look at a link", error))?;
        programs.insert(about.prog_id);
    }
    let mut ids = BTreeSet::new();
    for program in programs {
        let program = Program::fd_from_id(program)
            .map_err(|error| failed("open a program that is attached", error))?;
        let of_program = map_ids(program.as_fd())
            .map_err(|error| failed("ask for the maps of a program", error.into()))?;
        ids.extend(of_program);
    }
    let mut found = Vec::new();
    for id in ids {
        let map = MapHandle::from_map_id(id).map_err(|error| failed("open a map", error))?;
        found.push((map.name().to_string_lossy().into_owned(), map));
    }
    Ok(found)
}

/// The ids of the maps that a program holds.
fn map_ids(program: BorrowedFd<'_>) -> std::io::Result<Vec<u32>> {
    // More than there are in our object.
    let mut ids = [0_u32; 128];
    let mut about = libbpf_sys::bpf_prog_info {
        nr_map_ids: ids.len() as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut length = size_of_val(&about) as u32;
    // SAFETY: the descriptor is open; the kernel writes at most `length` octets to `about`, and `nr_map_ids` ids to where that
    // points, which both outlive the call.
    let done = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut about, &raw mut length)
    };
    if done != 0 {
        return Err(std::io::Error::from_raw_os_error(-done));
    }
    let count = (about.nr_map_ids as usize).min(ids.len());
    Ok(ids[..count].to_vec())
}

/// What the programs were loaded with.
fn constants(map: &MapHandle) -> Result<abi::rodata, Error> {
    let row = map
        .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
        .map_err(|error| Error::caused(ErrorKind::Io, "read the programs' constants", error))?;
    // The section ends with its last constant, the structure where its alignment lets it.
    let (size, padding) = (size_of::<abi::rodata>(), align_of::<abi::rodata>());
    row.filter(|octets| octets.len() + padding > size)
        .map(|mut octets| {
            octets.resize(octets.len().max(size), 0);
            // SAFETY: long enough; it is made of plain integers alone, so that any octets are one, and the read does not
            // assume alignment.
            unsafe { octets.as_ptr().cast::<abi::rodata>().read_unaligned() }
        })
        .ok_or_else(|| Error::new(ErrorKind::Layout, "read the programs' constants"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_known_by_what_the_kernel_keeps_of_their_names() {
        assert!(is_called("bs_prefixes_eve", "bs_prefixes_even"));
        assert!(is_called("bs_flows", "bs_flows") && !is_called("bs_flows", "bs_flow"));
        assert!(is_called("blacksta.bss", "bss") && is_called("blacksta.rodata", "rodata"));
        assert!(!is_called(".rodata.str1.1", "rodata") && !is_called("bss", "bss"));
    }
}
