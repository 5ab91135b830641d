//! What the command is denied from its first instruction on, besides destinations.

use std::collections::BTreeSet;
use std::path::PathBuf;

use blackstart_core::policy::{Effect, Policy};
use blackstart_core::report::Mode;
use blackstart_core::tables::Tables;
use blackstart_kernel::spawn::{Containment, HiddenSockets, SocketFilter};
use blackstart_kernel::support::Support;
use blackstart_kernel::{Feature, Session};

use super::Setup;
use crate::hidden::{self, Hidden, place, unix_rules};
use crate::plan::{Need, replan};
use crate::refusal::Refusal;
use crate::state::StateDir;

/// As the report names them among the features.
const CONTAIN: &str = "contain";
const HIDE: &str = "hide_sockets";

impl Setup<'_> {
    /// Is whatever no rule allows refused in deed? Only then is a kind of socket refused for what it is, and are
    /// privileges taken away: a run that observes, or goes by a deny-list, is not to notice its guard.
    pub(super) fn default_refuses(&self) -> bool {
        let refuses =
            |policy: &Policy| policy.default == Effect::Deny && policy.mode == Mode::Enforce;
        self.terms.enforcing() && self.policy.is_some_and(refuses)
    }

    /// Take from the command what it could undo its guard with, where that was asked for or the default refuses.
    pub(super) fn contain(&mut self) -> Result<(), Refusal> {
        let wanted = self.request.contain.unwrap_or(self.default_refuses());
        if !wanted || self.file.break_glass.is_some() {
            return Ok(());
        }
        match Containment::prepare(&StateDir::kept(&self.request.state_dir)) {
            Ok(containment) => {
                self.containment = Some(containment);
                self.file.contained = true;
                self.file.kernel.features.push(CONTAIN.to_owned());
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::Contain,
                format!("the command cannot be contained: {error}"),
            ),
        }
    }

    /// It was tried and does not go: without, if that is accepted.
    pub(super) fn go_uncontained(&mut self, why: String) -> Result<(), Refusal> {
        self.terms.lack(Need::Contain, why)?;
        self.containment = None;
        self.file.contained = false;
        self.file
            .kernel
            .features
            .retain(|feature| feature != CONTAIN);
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        Ok(())
    }

    /// Denied sockets out of the command's reach, if that was asked for; and no rule about one that does not hold.
    pub(super) fn hide_sockets(
        &mut self,
        tables: &Tables,
        wanted: &BTreeSet<Feature>,
    ) -> Result<(), Refusal> {
        let hooks = [Feature::UnixSockets, Feature::SocketNames];
        let hooks = hooks.iter().any(|feature| wanted.contains(feature));
        if !self.terms.hides() {
            return match self.policy {
                Some(policy) => unix_rules(policy, wanted, &hidden::none(policy), &mut self.terms),
                None => Ok(()),
            };
        }
        let hidden = Hidden::look(self.policy, tables, self.terms.enforcing());
        if let Some(policy) = self.policy {
            unix_rules(policy, wanted, &hidden.open, &mut self.terms)?;
        }
        for rule in hidden.absent.iter().filter(|_| !hooks) {
            let why = format!(
                "{} does not hold for a socket that comes to be there while the run is on",
                place(rule)
            );
            self.terms.note(Need::UnixRules, why, 0);
        }
        match HiddenSockets::prepare(hidden.paths.iter().map(PathBuf::as_path)) {
            Ok(covers) => {
                self.hidden = Some(covers).filter(|_| !hidden.paths.is_empty());
                self.file.kernel.features.push(HIDE.to_owned());
                Ok(())
            }
            Err(error) => self.hide_nothing(error.to_string()),
        }
    }

    /// The kernel does not take what refuses sockets by their names: does what the policy denies hold without?
    pub(super) fn go_without_names(
        &mut self,
        host: &Support,
        tables: &Tables,
        loaded: &BTreeSet<Feature>,
    ) -> Result<(), Refusal> {
        replan(host, loaded, &[], &mut self.terms)?;
        let Some(policy) = self.policy else {
            return Ok(());
        };
        if !self.terms.hides() {
            return unix_rules(policy, loaded, &hidden::none(policy), &mut self.terms);
        }
        let hidden = Hidden::look(Some(policy), tables, self.terms.enforcing());
        unix_rules(policy, loaded, &hidden.open, &mut self.terms)
    }

    /// It was tried and does not go: without, if that is accepted, or nothing is refused.
    pub(super) fn hide_nothing(&mut self, why: String) -> Result<(), Refusal> {
        self.terms.lack(Need::UnixRules, why)?;
        self.hidden = None;
        self.file.kernel.features.retain(|feature| feature != HIDE);
        self.file.gaps = self.terms.gaps().to_vec();
        self.write_run();
        Ok(())
    }

    /// Where the default refuses: no sockets that nothing could judge, unless they are accepted.
    pub(super) fn close_families(&mut self) -> Result<(), Refusal> {
        if !self.default_refuses() {
            return Ok(());
        }
        if self.terms.accepts(Need::Families) {
            if let Some(session) = &mut self.session {
                session.open_families();
            }
            return Ok(());
        }
        if self.target.is_some() {
            let why = "packet and vsock sockets of processes that run already cannot be refused";
            return self.terms.lack(Need::Families, why);
        }
        let sees_kinds = |session: &Session| session.has(Feature::SocketKinds);
        if !self.session.as_ref().is_some_and(sees_kinds) {
            let why = "raw, ping and SCTP sockets cannot be refused: no hook sees them being made";
            return self.terms.lack(Need::Families, why);
        }
        match SocketFilter::compile() {
            Ok(filter) => {
                self.filter = Some(filter);
                self.file.closed_families = true;
                Ok(())
            }
            Err(error) => self.terms.lack(
                Need::Families,
                format!("packet and vsock sockets cannot be refused: {error}"),
            ),
        }
    }
}
