//! What clients have, handed from one handle of the database to the next.

use std::sync::Arc;

use tokio::time::{self, Duration};

use super::{
    Live,
    binding::{Binding, Identity},
    group::{Group, Stage},
    view,
};
use crate::{heirloom::Held, live::Source};

/// How long readings are waited for at the end.
const END_LIMIT: Duration = Duration::from_secs(2);

impl Live {
    /// Takes a binding to its result that has rows already, from another handle of the database.
    pub(super) fn inherit(&mut self, binding: Arc<Binding>, source: Arc<Source>, held: Held) {
        let identity = Identity::of(&binding, &source);
        // The handle before has told it.
        binding.warn();
        let mut group = Group::new(Arc::unwrap_or_clone(held.keeper), vec![binding], Stage::Moved);
        if !view::of(&source).has_key_of(&held.view) {
            self.send_left(&group.keeper.clear(), &group.to, &held.view, &held.source);
        }
        self.come(group, identity, source);
    }

    /// Leaves what the bindings have to the next handle. Waits for readings that end, but not for long.
    pub(in crate::worker::state) async fn hand_over(&mut self) {
        let ending = async {
            while self.running > 0 {
                let event = self.event().await;
                self.happens(event);
            }
        };
        let _ = time::timeout(END_LIMIT, ending).await;
        for kept in self.results.values_mut() {
            let (view, source) = (Arc::clone(&kept.view), Arc::clone(&kept.source));
            let mut groups = std::mem::take(&mut kept.newcomers);
            if let Some(keeper) = kept.keeper.take() {
                groups.push(Group::new(keeper, std::mem::take(&mut kept.members), Stage::Complete));
            }
            for Group { keeper, to, .. } in groups {
                let keeper = Arc::new(keeper);
                for binding in to {
                    let (keeper, view, source) =
                        (Arc::clone(&keeper), Arc::clone(&view), Arc::clone(&source));
                    self.heirloom.keep(binding.channel, binding.id, Held { keeper, view, source });
                }
            }
        }
    }
}
