//! The colours of the pictures.

use plotters::style::RGBColor;

/// Colours for one kind of page. Those of a pair differ in lightness as well, for
/// whoever does not see colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) name: &'static str,
    pub(super) page: RGBColor,
    pub(super) text: RGBColor,
    /// Text and marks of lesser weight.
    pub(super) quiet: RGBColor,
    pub(super) grid: RGBColor,
    /// Causeway: the first and the second value of a pair.
    pub(super) own: [RGBColor; 2],
    /// Everything else.
    pub(super) other: [RGBColor; 2],
    /// What a heat map has where both are alike, where we are ahead, and where we are behind.
    pub(super) alike: RGBColor,
    pub(super) ahead: RGBColor,
    pub(super) behind: RGBColor,
}

impl Theme {
    pub(super) const BOTH: [Self; 2] = [
        Self {
            name: "light",
            page: RGBColor(0xff, 0xff, 0xff),
            text: RGBColor(0x1f, 0x23, 0x28),
            quiet: RGBColor(0x59, 0x63, 0x6e),
            grid: RGBColor(0xd8, 0xde, 0xe4),
            own: [RGBColor(0x05, 0x50, 0xae), RGBColor(0x6c, 0xb6, 0xff)],
            other: [RGBColor(0x6e, 0x77, 0x81), RGBColor(0xb7, 0xbf, 0xc7)],
            alike: RGBColor(0xf1, 0xf3, 0xf5),
            ahead: RGBColor(0x4b, 0x9c, 0xf5),
            behind: RGBColor(0xf0, 0x88, 0x3e),
        },
        Self {
            name: "dark",
            page: RGBColor(0x0d, 0x11, 0x17),
            text: RGBColor(0xe6, 0xed, 0xf3),
            quiet: RGBColor(0x9d, 0xa7, 0xb1),
            grid: RGBColor(0x2c, 0x33, 0x3b),
            own: [RGBColor(0x79, 0xc0, 0xff), RGBColor(0x1f, 0x6f, 0xeb)],
            other: [RGBColor(0xa8, 0xb1, 0xba), RGBColor(0x5c, 0x65, 0x6f)],
            alike: RGBColor(0x22, 0x28, 0x2f),
            ahead: RGBColor(0x1a, 0x5f, 0xc4),
            behind: RGBColor(0xb0, 0x52, 0x0e),
        },
    ];
}

/// A colour between two: `part` is 0 for the first and 1 for the second.
pub(super) fn between(first: RGBColor, second: RGBColor, part: f64) -> RGBColor {
    let part = part.clamp(0.0, 1.0);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
    RGBColor(mix(first.0, second.0), mix(first.1, second.1), mix(first.2, second.2))
}
