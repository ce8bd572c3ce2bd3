//! Which receivers of a change get the same frame.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use realtime_changes::{Action, ChannelId, Recipient};
use realtime_pgoutput::Position;
use realtime_protocol::{Vsn, encode};
use rustc_hash::FxHashMap;

use super::route::Route;

/// What makes two change frames equal, beside the change itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FrameKey<'a> {
    vsn: Vsn,
    legacy: bool,
    topic: &'a str,
    ids: &'a [u32],
}

/// Receivers by the frame that they get.
#[derive(Default)]
pub(super) struct Groups<'a> {
    pub(super) all: Vec<(FrameKey<'a>, Vec<&'a Arc<Route>>)>,
    /// Where each of them is, once there are two. Clients choose topics, so their hashes are keyed.
    places: HashMap<FrameKey<'a>, usize>,
}

impl<'a> Groups<'a> {
    /// Groups of the receivers that have a route.
    pub(super) fn of(recipients: &'a [Recipient], routes: &'a FxHashMap<ChannelId, Arc<Route>>) -> Self {
        let mut groups = Self::default();
        for recipient in recipients {
            if let Some(route) = routes.get(&recipient.channel) {
                groups.add(route, recipient);
            }
        }
        groups
    }

    fn add(&mut self, route: &'a Arc<Route>, recipient: &'a Recipient) {
        let key = FrameKey::of(route, recipient);
        // Mostly all get the same as the one before.
        if let Some((_, routes)) = self.all.last_mut().filter(|(last, _)| *last == key) {
            return routes.push(route);
        }
        if let ([(only, _)], true) = (&*self.all, self.places.is_empty()) {
            self.places.insert(*only, 0);
        }
        match self.places.get(&key).and_then(|place| self.all.get_mut(*place)) {
            Some((_, routes)) => routes.push(route),
            None => {
                if !self.all.is_empty() {
                    self.places.insert(key, self.all.len());
                }
                self.all.push((key, vec![route]));
            }
        }
    }
}

impl<'a> FrameKey<'a> {
    fn of(route: &'a Route, recipient: &'a Recipient) -> Self {
        // Events do not carry ids of subscriptions.
        let ids: &[u32] = if route.is_stream() { &[] } else { &recipient.ids };
        Self { vsn: route.vsn, legacy: route.legacy, topic: &route.topic, ids }
    }

    pub(super) fn frame(&self, action: Action, data: &[u8], position: Option<Position>) -> Bytes {
        if self.vsn == Vsn::Events {
            let position = position.as_ref().map(|position| position as &dyn std::fmt::Display);
            return encode::change_event(action.as_str(), position, data);
        }
        match self.legacy {
            true => encode::legacy_change(self.vsn, self.topic, action.as_str(), data),
            false => encode::postgres_changes(self.vsn, self.topic, self.ids, data),
        }
    }
}
