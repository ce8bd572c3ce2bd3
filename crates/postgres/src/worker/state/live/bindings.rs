//! Bindings come, go to other results, and leave.

use std::sync::Arc;

use realtime_changes::ChannelId;
use realtime_live::Keeper;
use tokio::sync::oneshot;

use super::{
    Live,
    binding::{Binding, Identity, Name},
    group::{Group, Stage},
    result::{Kept, Moving, Stale},
    view,
};
use crate::live::Source;

impl Live {
    /// Sets the live bindings of a channel in place of those that it had. What stays the same goes on.
    pub(in crate::worker::state) fn replace(
        &mut self,
        channel: ChannelId,
        bindings: Vec<(Binding, Arc<Source>)>,
    ) {
        let had = self.channels.get(&channel).cloned().unwrap_or_default();
        for id in had {
            if !bindings.iter().any(|(binding, _)| binding.id == id) {
                self.leave((channel, id));
            }
        }
        let mut inherited = self.heirloom.take(channel);
        for (binding, source) in bindings {
            match inherited.iter().position(|(id, _)| *id == binding.id) {
                Some(at) => self.inherit(Arc::new(binding), source, inherited.swap_remove(at).1),
                None => self.enter(Arc::new(binding), source),
            }
        }
        self.count();
    }

    /// A channel ends.
    pub(in crate::worker::state) fn remove(&mut self, channel: ChannelId) {
        for id in self.channels.get(&channel).cloned().unwrap_or_default() {
            self.leave((channel, id));
        }
        self.count();
    }

    /// Takes a binding to the result that it asks for.
    fn enter(&mut self, binding: Arc<Binding>, source: Arc<Source>) {
        let name = binding.name();
        let identity = Identity::of(&binding, &source);
        let Some(from) = self.places.get(&name).copied() else {
            let since = binding.spec.since.clone();
            let mut group = Group::new(Keeper::new(self.secret), vec![binding], Stage::First);
            group.since = since;
            return self.come(group, identity, source);
        };
        let Some(kept) = self.results.get_mut(&from) else { return };
        if kept.bindings().any(|known| known.name() == name && known.was_warned()) {
            binding.warn();
        }
        kept.moving.retain(|moving| moving.binding.name() != name);
        if kept.identity == identity && kept.reading.is_none() {
            // It goes on, with claims that make no difference.
            for known in
                kept.members.iter_mut().chain(kept.newcomers.iter_mut().flat_map(|group| &mut group.to))
            {
                if known.name() == name {
                    *known = Arc::clone(&binding);
                }
            }
            return;
        }
        let moving = Moving { binding, to: Some(source) };
        if kept.reading.is_some() {
            kept.moving.push(moving);
        } else {
            self.goes(from, moving);
        }
    }

    /// Takes a binding from a result that is not being read to another one.
    pub(super) fn goes(&mut self, from: u32, Moving { binding, to }: Moving) {
        if self.results.get(&from).is_some_and(|kept| kept.is_last(binding.name())) {
            self.release(from);
        }
        let Some(kept) = self.results.get_mut(&from) else { return };
        let Some(mut group) = kept.take(binding.name()) else {
            if to.is_none() {
                self.is_out(binding.name());
            }
            return;
        };
        group.to = vec![Arc::clone(&binding)];
        if to.is_some() {
            // What it has had it may have had with other rights.
            group.goes_on(None, &*self.sink);
        }
        let (view, source) = (Arc::clone(&kept.view), Arc::clone(&kept.source));
        let keeps = to.as_ref().is_some_and(|to| view::of(to).has_key_of(&view));
        if !keeps {
            self.send_left(&group.keeper.clear(), &group.to, &view, &source);
        }
        if self.results.get(&from).is_some_and(Kept::is_empty) {
            self.rest(from);
        }
        match to {
            Some(to) => self.come(group, Identity::of(&binding, &to), to),
            None => self.is_out(binding.name()),
        }
    }

    /// A channel was refused: its rows leave, and that is answered. What it had was had with other rights.
    pub(in crate::worker::state) fn refuse(&mut self, channel: ChannelId, reply: oneshot::Sender<()>) {
        let ids = self.channels.get(&channel).cloned().unwrap_or_default();
        if ids.is_empty() {
            // The caller may already be gone.
            let _ = reply.send(());
            return;
        }
        self.refused.insert(channel, (ids.len(), reply));
        for id in ids {
            let Some(from) = self.places.get(&(channel, id)).copied() else { continue };
            let Some(kept) = self.results.get_mut(&from) else { continue };
            kept.moving.retain(|moving| moving.binding.name() != (channel, id));
            let Some(binding) = kept.bindings().find(|known| known.name() == (channel, id)).map(Arc::clone)
            else {
                continue;
            };
            let moving = Moving { binding, to: None };
            if kept.reading.is_some() {
                kept.moving.push(moving);
            } else {
                self.goes(from, moving);
            }
        }
        self.count();
    }

    /// The rows of a binding that was refused have left.
    fn is_out(&mut self, name: Name) {
        self.leave(name);
        let Some((left, _)) = self.refused.get_mut(&name.0) else { return };
        *left = left.saturating_sub(1);
        if *left == 0
            && let Some((_, reply)) = self.refused.remove(&name.0)
        {
            // The caller may already be gone.
            let _ = reply.send(());
        }
    }

    /// Somebody comes to a result, which is made if there is none.
    pub(super) fn come(&mut self, group: Group, identity: Identity, source: Arc<Source>) {
        let result = match self.identities.get(&identity) {
            Some(result) => *result,
            None => self.make(identity, Arc::clone(&source)),
        };
        for binding in &group.to {
            self.places.insert(binding.name(), result);
            let ids = self.channels.entry(binding.channel).or_default();
            if !ids.contains(&binding.id) {
                ids.push(binding.id);
            }
        }
        let rested = self.wake(result);
        if let Some(kept) = self.results.get_mut(&result) {
            kept.newcomers.push(group);
            // The catalog has just allowed it; while it rested nobody has asked.
            if kept.lost.take().is_some() || rested && !view::same_source(&kept.source, &source) {
                (kept.is_doubted, kept.stale) = (true, Stale::Yes);
            }
        }
        self.schedule(result);
    }

    pub(super) fn leave(&mut self, name: Name) {
        let Some(result) = self.places.remove(&name) else { return };
        if let Some(ids) = self.channels.get_mut(&name.0) {
            ids.retain(|id| *id != name.1);
            if ids.is_empty() {
                self.channels.remove(&name.0);
            }
        }
        let rests = self.rests_for.is_some();
        if !rests && self.results.get(&result).is_some_and(|kept| kept.is_last(name)) {
            self.release(result);
        }
        let Some(kept) = self.results.get_mut(&result) else { return };
        kept.leave(name, rests);
        if kept.is_empty() {
            self.rest(result);
        }
    }
}
