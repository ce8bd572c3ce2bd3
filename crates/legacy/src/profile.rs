//! Which servers of the first generation are emulated.

/// What differed between the versions of the first generation (legacy 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Every change is sent twice, first with the event `*` (0.7.0 to 0.14.4).
    pub star_events: bool,
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
    /// Servers 0.7 to 0.10, for clients that need the event `*`: realtime-js up to 1.0.8, realtime-py 0.0.x.
    pub const V0_10: Self = Self {
        star_events: true,
        dotted_filter: true,
        iso_timestamps: false,
        errors_key: false,
        token_first: true,
    };

    /// Servers 0.22 to 1.0.
    pub const V0_22: Self = Self {
        star_events: false,
        dotted_filter: true,
        iso_timestamps: true,
        errors_key: true,
        token_first: false,
    };
}
