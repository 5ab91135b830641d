//! Before the command starts: everything that guards it, or the reason why not.

use std::collections::BTreeSet;
use std::net::IpAddr;

use blackstart_core::name::Name;
use blackstart_core::policy::{Policy, UnitPattern};
use blackstart_core::tables::{Facts, Tables, compile};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Feature, LeftOut, Listening, Session, Settings};

use super::Setup;
use crate::cgroup::Controller;
use crate::follow::Following;
use crate::forward::{Forwarder, Listeners};
use crate::orphan::{Swept, sweep_locked, sweep_spare};
use crate::plan::{Need, plan};
use crate::refusal::{Cause, Refusal};
use crate::resolv::Resolving;
use crate::state::SPARE;
use crate::{Notice, inherited, stray};

/// Names of /etc/hosts that are handed to the kernel, each of which takes room there and time at the start.
const HOSTS_MOST: usize = 32_768;

impl Setup<'_> {
    /// Everything that has to be there before the command starts.
    pub(super) fn prepare(&mut self, notice: &mut dyn FnMut(Notice)) -> Result<(), Refusal> {
        let host = Support::for_run();
        let mut resolving = match &self.target {
            Some(target) => Self::seen_from(target, &mut self.views)?,
            None => Resolving::read(),
        };
        let tables = self.tables(&resolving)?;
        self.terms.ask_names();
        // What the host can do comes first: whoever lacks root lacks the state directory for want of it, and is to
        // hear of root.
        let wanted = plan(&host, tables.uses(), &mut self.terms)?;
        let locked = self.open_state()?;
        // The agent sweeps once everything is guarded again that an earlier one has left guarded.
        if let (Some(state), Some(_), false) = (&self.state, &locked, self.by_rule) {
            match sweep_locked(state) {
                Ok(mut swept) => {
                    swept.add(sweep_spare(state.path()));
                    let strays = stray::sweep();
                    for failed in &strays.failed {
                        notice(Notice::Warning(format!(
                            "cannot clean up after the run in {}: {}",
                            failed.path.display(),
                            failed.why
                        )));
                    }
                    swept.add(strays);
                    for report in &swept.adopted {
                        notice(Notice::Adopted(report.clone()));
                    }
                    self.refuse_beside_orphans(&swept, notice)?;
                }
                Err(error) => notice(Notice::Warning(format!(
                    "runs without a supervisor cannot be looked for: {error}"
                ))),
            }
        }
        if !wanted.is_empty() {
            self.hide_sockets(&tables, &wanted)?;
            self.shorten_hosts(&mut resolving.hosts, &tables)?;
        }
        self.file.knows(&resolving);
        self.begin_dir()?;
        // Limits hold a run of which nothing can be seen as well.
        if !(wanted.is_empty() && Controller::needed(&self.limits()).is_empty()) {
            self.make_cgroup(&host)?;
        }
        match self.target {
            Some(_) => self.leave_unlimited(),
            None => self.apply_limits()?,
        }
        if self.cgroup.is_some() && !wanted.is_empty() {
            self.make_pins()?;
            // Others may begin: what follows takes time, and is found by its name if this one dies.
            drop(locked);
            self.locked = None;
            let forwarder = self.listen(&resolving.servers)?;
            let settings = Settings {
                forwarder,
                ..self.settings(&tables, &resolving)
            };
            self.load(&host, &wanted, &settings)?;
            self.tell_left_out()?;
            self.close_families()?;
            if self.target.is_some() {
                self.move_to_target(&tables)?;
            }
            self.prepare_follow(&host, &wanted, &resolving);
            self.arm()?;
            if self.target.is_some() {
                self.meet_connections(&tables, &resolving);
            }
            self.forward(tables)?;
            // Those that nobody is turned to.
            self.listeners = None;
        }
        if self.target.is_none() {
            self.contain()?;
        }
        if self.session.is_some() && self.target.is_none() {
            for detail in inherited::sockets() {
                self.terms.note(Need::InheritedSockets, detail, 0);
            }
        }
        self.locked = None;
        if let Some(why) = &self.displaced {
            notice(Notice::Warning(format!(
                "the state of this run is kept in {SPARE}, where a reboot takes it away: {why}"
            )));
        }
        for gap in self.terms.gaps() {
            notice(Notice::Gap(gap.clone()));
        }
        Ok(())
    }

    /// An earlier run of the same service that nobody supervises may still change what this one changes. So may one that
    /// could not be looked at.
    pub(super) fn refuse_beside_orphans(
        &self,
        swept: &Swept,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Refusal> {
        let Some(service) = self
            .file
            .service
            .as_ref()
            .filter(|_| !self.request.concurrent)
        else {
            return Ok(());
        };
        let of_it = |of: &Option<String>| of.as_ref() == Some(service);
        let lives = swept.living.iter().find(|orphan| of_it(&orphan.service));
        let unknown = swept.failed.iter().find(|failed| of_it(&failed.service));
        let (goes_on, why) = match (lives, unknown) {
            (Some(orphan), _) => (
                "still goes on",
                format!("run {} has processes left", orphan.id),
            ),
            (None, Some(failed)) => (
                "may still go on",
                format!(
                    "whether the run in {} has processes left cannot be told: {}",
                    failed.path.display(),
                    failed.why
                ),
            ),
            (None, None) => return Ok(()),
        };
        let what = format!("an earlier run of {service} {goes_on} without its supervisor");
        if self.request.break_glass.is_some() {
            notice(Notice::Warning(format!("{what}; {why}")));
            return Ok(());
        }
        Err(Refusal {
            cause: Cause::Orphan,
            what,
            why,
            remedy: "end its processes, or run beside them with --concurrent".to_owned(),
        })
    }

    pub(super) fn tables(&mut self, resolving: &Resolving) -> Result<Tables, Refusal> {
        let search: Vec<Name> = resolving
            .search
            .iter()
            .filter_map(|domain| Name::parse(domain).ok())
            .collect();
        self.search.clone_from(&search);
        let default = Policy::default();
        let compiled = compile(self.policy.unwrap_or(&default), &Facts { search });
        let mut tables = compiled.map_err(|error| Refusal {
            cause: Cause::Request,
            what: "the policy cannot be compiled".to_owned(),
            why: error.to_string(),
            remedy: String::new(),
        })?;
        if self.target.is_some() {
            tables.end_leases();
        }
        Ok(tables)
    }

    /// Keep what the kernel's tables have room for; names that a rule speaks of first, since only these
    /// decide anything.
    pub(super) fn shorten_hosts(
        &mut self,
        hosts: &mut Vec<(String, IpAddr)>,
        tables: &Tables,
    ) -> Result<(), Refusal> {
        let Some(over) = hosts.len().checked_sub(HOSTS_MOST).filter(|over| *over > 0) else {
            return Ok(());
        };
        let ruled =
            |name: &str| Name::parse(name).is_ok_and(|name| tables.class_of_name(&name) != 0);
        hosts.sort_by_cached_key(|(name, _)| !ruled(name));
        let left_out = hosts.split_off(HOSTS_MOST);
        if left_out.iter().any(|(name, _)| ruled(name)) {
            self.terms.lack(
                Need::HostsFile,
                format!(
                    "the policy speaks of more names of /etc/hosts than the {HOSTS_MOST} that fit"
                ),
            )
        } else {
            let over = u64::try_from(over).unwrap_or(u64::MAX);
            let detail = format!(
                "/etc/hosts has more than the {HOSTS_MOST} names that fit; addresses of the others, \
                 of which no rule speaks, go unnamed"
            );
            self.terms.note(Need::HostsFile, detail, over);
            Ok(())
        }
    }

    /// What of the host's files and addresses found no room in the kernel's tables.
    pub(super) fn tell_left_out(&mut self) -> Result<(), Refusal> {
        let left_out = self.session.as_ref().map(Session::left_out);
        let LeftOut {
            own_addresses,
            hosts,
        } = left_out.unwrap_or_default();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        if own_addresses > 0 {
            self.terms.note(
                Need::OwnAddresses,
                "the host has more addresses than are known as its own; the others are judged as any address",
                count(own_addresses),
            );
        }
        if hosts > 0 {
            self.terms.lack(
                Need::HostsFile,
                format!(
                    "for {hosts} of the names of /etc/hosts that rules speak of, their address has no room beside its others"
                ),
            )?;
        }
        Ok(())
    }

    /// Listen for lookups over TCP, before the programs that turn them here are loaded: these are told where.
    pub(super) fn listen(&mut self, servers: &[IpAddr]) -> Result<Option<Listening>, Refusal> {
        let (listeners, mut failed) = Listeners::open(servers);
        let place = listeners.place().unwrap_or_else(|error| {
            failed.push(format!("its network namespace cannot be told: {error}"));
            None
        });
        for why in failed {
            self.terms.lack(
                Need::DnsOverTcp,
                format!(
                    "lookups over TCP are not read: {why}; under `default: deny` they are refused"
                ),
            )?;
        }
        self.listeners = Some(listeners);
        Ok(place)
    }

    /// Read lookups over TCP from now on, if the programs turn them here.
    pub(super) fn forward(&mut self, tables: Tables) -> Result<(), Refusal> {
        let turned = self.session.as_ref().is_some_and(Session::forwards);
        let Some(listeners) = self.listeners.take().filter(|_| turned) else {
            return Ok(());
        };
        match Forwarder::new(listeners) {
            Ok(forwarder) => {
                self.forwarder = Some(forwarder);
                self.tables = Some(tables);
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::DnsOverTcp,
                format!("lookups over TCP are not read: {error}"),
            ),
        }
    }

    /// Have units that are to be followed observed when they start. Whatever fails of it, the run goes on.
    fn prepare_follow(
        &mut self,
        host: &Support,
        wanted: &BTreeSet<Feature>,
        resolving: &Resolving,
    ) {
        let patterns = self.policy.map_or(&[][..], |policy| &policy.follow);
        if patterns.is_empty() {
            return;
        }
        let prepared = match &self.session {
            _ if self.target.is_some() => Err("what is attached to starts no units".to_owned()),
            None => Err("nothing can be observed".to_owned()),
            Some(_) if host.systemd != Some(true) => Err("PID 1 is not systemd".to_owned()),
            Some(session) => {
                let loaded = wanted.iter().copied().filter(|one| session.has(*one));
                Following::prepare(patterns, loaded, resolving)
            }
        };
        match prepared {
            Ok(following) => {
                self.file.unfollowed = following.unfollowed();
                self.follow = Some(following);
            }
            Err(why) => {
                let units: Vec<&str> = patterns.iter().map(UnitPattern::as_str).collect();
                let detail = format!("{} cannot be followed: {why}", units.join(", "));
                self.terms.note(Need::Follow, detail, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use crate::plan::Terms;
    use blackstart_core::policy;
    use blackstart_core::report::Mode;

    #[test]
    fn of_a_huge_hosts_file_what_rules_speak_of_is_kept() {
        let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules:\n  - deny: .github.com\n";
        let policy = policy::alone(text, "p.yaml").unwrap().policy;
        let tables = compile(&policy, &Facts { search: Vec::new() }).unwrap();
        let request = Request::bare("/nowhere".as_ref());
        let shortened = |count: u32, last: &str| {
            let mut hosts: Vec<_> = (0..count)
                .map(|n| (format!("n{n}.{last}"), IpAddr::from(n.to_be_bytes())))
                .collect();
            hosts.push(("api.github.com".to_owned(), IpAddr::from([10, 0, 0, 1])));
            let mut setup = Setup::new(&request, Mode::Enforce, Terms::new(true, &[]).unwrap());
            let outcome = setup.shorten_hosts(&mut hosts, &tables);
            let first = hosts.iter().any(|(name, _)| name == "api.github.com");
            (
                outcome.is_ok() && first,
                hosts.len(),
                setup.terms.gaps().to_vec(),
            )
        };
        assert_eq!(shortened(100, "example"), (true, 101, Vec::new()));
        let (fine, kept, gaps) = shortened(70_000, "example");
        assert!(fine && kept == HOSTS_MOST);
        assert_eq!(
            (gaps[0].kind.as_str(), gaps[0].count),
            ("hosts_file", 37_233)
        );
        // Names left out of which a rule speaks would not be refused by their address.
        assert!(!shortened(70_000, "github.com").0);
    }
}
