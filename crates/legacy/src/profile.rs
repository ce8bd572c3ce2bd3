//! Which servers of the first generation are emulated.

/// Which clients are sent every change twice, first with the event `*` (0.7.0 to 0.14.4).
///
/// Clients that compare the names of events need it for their `*` listeners: realtime-js up to 1.0.8, realtime-py 0.0.x.
/// It does no harm to later ones for JavaScript and Dart; realtime-py from 1.0 on would see changes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StarEvents {
    /// Nobody.
    Never,
    /// Clients that may need it and are not harmed by it, judged by their joins.
    Auto,
    /// Everybody.
    Always,
}

/// What differed between the versions of the first generation (legacy 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Which clients are sent the event `*` too.
    pub star_events: StarEvents,
    /// `column.eq.value` means the same as `column=eq.value`, as the READMEs had it.
    pub dotted_filter: bool,
    /// Timestamps in the form of ISO 8601 (from 0.11.1).
    pub iso_timestamps: bool,
    /// Changes of rows have the key `errors` (from 0.18).
    pub errors_key: bool,
    /// The query parameter `token` counts before `apikey` (to 0.19.0).
    pub token_first: bool,
}

impl Profile {
    /// The profile that serves most clients: servers 0.22 to 1.0, and the event `*` for clients that may need it.
    pub const ANY: Self = Self { star_events: StarEvents::Auto, ..Self::V0_22 };

    /// Servers 0.7 to 0.10.
    pub const V0_10: Self = Self {
        star_events: StarEvents::Always,
        dotted_filter: true,
        iso_timestamps: false,
        errors_key: false,
        token_first: true,
    };

    /// Servers 0.22 to 1.0.
    pub const V0_22: Self = Self {
        star_events: StarEvents::Never,
        dotted_filter: true,
        iso_timestamps: true,
        errors_key: true,
        token_first: false,
    };
}
