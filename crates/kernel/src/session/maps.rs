//! A run's maps, by descriptors of their own: what libbpf keeps of the object that they were loaded with, a megabyte of
//! types and instructions, can be let go while they live on.

use libbpf_rs::{MapHandle, MapMut};

use crate::{Error, ErrorKind, abi};

macro_rules! maps {
    ($($name:ident),* $(,)?) => {
        /// By their names in `tables.bpf.h` and the other files of programs.
        pub(crate) struct Maps {
            $(pub(crate) $name: MapHandle,)*
        }

        impl Maps {
            /// Those of an object that is loaded.
            pub(super) fn of(skeleton: &abi::BlackstartSkel<'_>) -> Result<Self, Error> {
                Ok(Self {
                    $($name: held(&skeleton.maps.$name)?,)*
                })
            }

            /// Those that `find` gives for each name.
            pub(super) fn by_name(
                find: impl Fn(&str) -> Result<MapHandle, Error>,
            ) -> Result<Self, Error> {
                Ok(Self {
                    $($name: find(stringify!($name))?,)*
                })
            }

            /// All of them.
            pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &MapHandle)> {
                [$((stringify!($name), &self.$name),)*].into_iter()
            }

            /// The same by other handles.
            pub(super) fn again(&self) -> Result<Self, Error> {
                Ok(Self {
                    $($name: held_again(&self.$name)?,)*
                })
            }

            /// The one with this name.
            pub(super) fn find(&self, name: &str) -> Option<&MapHandle> {
                match name {
                    $(stringify!($name) => Some(&self.$name),)*
                    // libbpf puts the object's name before it.
                    name if name.ends_with(".bss") => Some(&self.bss),
                    _ => None,
                }
            }
        }
    };
}

maps!(
    bs_states,
    bs_edges,
    bs_classes,
    bs_choices,
    bs_steps,
    bs_ends,
    bs_prefixes_even,
    bs_prefixes_odd,
    bs_ports,
    bs_names,
    bs_pending,
    bs_leases,
    bs_answers,
    bs_queries,
    bs_flows,
    bs_overflow,
    bs_subjects,
    bs_argv_rest,
    bs_processes,
    bs_leavers,
    bs_delegates,
    bs_made,
    bs_counters,
    bs_seats,
    bs_sockets,
    bs_parts,
    bs_events,
    bs_forwarded,
    bs_questions,
    bs_scratch,
    bs_claimants,
    bs_messages,
    bs_places,
    bs_refused,
    bss,
);

impl Maps {
    /// The one with this name, by a handle of its own.
    pub(super) fn hold(&self, name: &str) -> Result<MapHandle, Error> {
        let map = self
            .find(name)
            .ok_or_else(|| Error::new(ErrorKind::Layout, format!("find the map {name}")))?;
        held_again(map)
    }
}

fn held_again(map: &MapHandle) -> Result<MapHandle, Error> {
    use libbpf_rs::MapCore as _;

    MapHandle::try_from(map).map_err(|error| {
        let doing = format!("hold the map {}", map.name().display());
        Error::caused(ErrorKind::Io, doing, error)
    })
}

fn held(map: &MapMut<'_>) -> Result<MapHandle, Error> {
    use libbpf_rs::MapCore as _;

    MapHandle::try_from(map).map_err(|error| {
        let doing = format!("hold the map {}", map.name().display());
        Error::caused(ErrorKind::Io, doing, error)
    })
}
