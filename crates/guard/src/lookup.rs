//! Judging what the forwarder asks, in the loop that owns the tables and the record.

use std::time::Instant;

use blackstart_core::record::Verdict;
use blackstart_core::report::rule_text;
use blackstart_core::tables::Tables;
use blackstart_kernel::{AnswerWanted, Asker, Error, Session, Unread};

use crate::answer::message::refusal;
use crate::forward::{Ask, Question, Reply, Unjudged};
use crate::orphan::described;
use crate::supervise::{Supervisor, TURN};

impl Supervisor<'_, '_> {
    /// Reply to what the forwarder asks, for one turn.
    pub(crate) fn hear_lookups(&mut self) {
        let Some(forwarder) = self.forwarder else {
            return;
        };
        forwarder.serve(Instant::now() + TURN, |ask| {
            self.judge(ask).unwrap_or_else(|error| {
                tracing::debug!(%error, "a lookup over TCP");
                self.unjudged.count += 1;
                self.unjudged.first.get_or_insert_with(|| described(&error));
                Reply::Close
            })
        });
    }

    fn judge(&mut self, ask: Ask) -> Result<Reply, Error> {
        let (Some(session), Some(tables)) =
            (self.session.as_deref_mut(), self.judged.tables.as_ref())
        else {
            return Ok(Reply::Close);
        };
        match ask {
            Ask::Who(from) => Ok(session.asker(from)?.map_or(Reply::Close, Reply::Asker)),
            Ask::Lookup(asker, question) => self.judge_lookup(&asker, &question),
            Ask::Unjudged(why) => {
                let enforcing = session.unread(tables, Unread::Query)?;
                let refused = match why {
                    Unjudged::Unreadable => enforcing,
                    Unjudged::NoLookup => enforcing && tables.default_deny,
                };
                Ok(if refused { Reply::Deny } else { Reply::Pass })
            }
            Ask::Answer(asker, name, given) => {
                if !session.leases(tables, &asker, &name) {
                    return Ok(Reply::Pass);
                }
                let Some(given) = given else {
                    return stray(session, tables, Unread::Answer);
                };
                session.lease(tables, &asker, &name, &given.chain, &given.addresses)?;
                Ok(Reply::Pass)
            }
            Ask::Stray(what) => stray(session, tables, what),
        }
    }

    fn judge_lookup(&mut self, asker: &Asker, question: &Question) -> Result<Reply, Error> {
        let (Some(session), Some(tables)) =
            (self.session.as_deref_mut(), self.judged.tables.as_ref())
        else {
            return Ok(Reply::Close);
        };
        let lookup = session.lookup(tables, asker, &question.name, question.qtype)?;
        let name = question.name.to_string();
        self.tell(asker.subject, asker.tgid, name, lookup.verdict, lookup.rule);
        if lookup.verdict != Verdict::Deny {
            return Ok(Reply::Pass);
        }
        if lookup.lost {
            return Ok(Reply::Lose);
        }
        let rule = rule_text(self.judged.policy.as_deref(), lookup.rule);
        let wanted = AnswerWanted {
            tgid: asker.tgid,
            id: question.id,
            flags: question.flags,
            question: question.sent.clone(),
            qtype: question.qtype,
            qclass: question.qclass,
            edns: question.edns,
            client: asker.from,
            server: asker.server,
        };
        Ok(refusal(&wanted, &rule).map_or(Reply::Deny, Reply::Refuse))
    }
}

fn stray(session: &mut Session, tables: &Tables, what: Unread) -> Result<Reply, Error> {
    Ok(match (session.unread(tables, what)?, what) {
        (false, _) => Reply::Pass,
        (true, Unread::Unasked) => Reply::Lose,
        (true, Unread::Query | Unread::Answer) => Reply::Deny,
    })
}
