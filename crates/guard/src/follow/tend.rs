//! The part of the loop that looks after followed units.

use std::io;
use std::time::Instant;

use blackstart_core::report::Gap;

use crate::plan::Need;
use crate::supervise::Supervision;

impl Supervision<'_, '_> {
    /// When units that are followed are to be looked after, at the latest.
    pub(crate) fn next_of_followed(&self) -> Option<Instant> {
        self.follow.as_ref().and_then(|follow| follow.next())
    }

    /// Look after units that are followed.
    pub(crate) fn follow(&mut self) {
        let Some(follow) = self.follow.as_deref_mut() else {
            return;
        };
        let news = follow.go_on(self.session.as_deref());
        let Some(dir) = self.dir.filter(|_| news.facts) else {
            return;
        };
        self.file.followed = follow.facts().to_vec();
        self.file.unfollowed = follow.unfollowed();
        for detail in follow.gaps() {
            if !self.file.gaps.iter().any(|gap| gap.detail == *detail) {
                self.file.gaps.push(Gap {
                    kind: Need::Follow.kind().to_owned(),
                    detail: detail.clone(),
                    count: 0,
                });
            }
        }
        if let Err(error) = dir.write_run(self.file) {
            tracing::debug!(%error, "the run's file");
        }
        if news.rows {
            self.keep_followed();
        }
    }

    /// What followed units did so far, for whoever has to tell the end of this run in our place: their tables are not
    /// pinned.
    pub(crate) fn keep_followed(&self) {
        let (Some(follow), Some(dir)) = (&self.follow, self.dir) else {
            return;
        };
        if follow.facts().is_empty() {
            return;
        }
        let written = dir.write_followed(|each| {
            let read = follow.read(&mut |row| each(&row));
            read.map_err(io::Error::other)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the record of followed units");
        }
    }
}
