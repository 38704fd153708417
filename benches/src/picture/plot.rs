//! Marks and labels at the places of values.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::CoordTranslate;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Circle, EmptyElement, PathElement, Rectangle, Text};
use plotters::prelude::{Cartesian2d, DrawingArea, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle};

use super::Canvas;
use super::theme::Theme;

/// Names without quotation marks: the library writes them into an attribute as they are.
const FONT: &str = "Segoe UI, Roboto, Helvetica, Arial, DejaVu Sans, sans-serif";

/// Sizes of text in the library's unit, which is 1.24 pixels of the font's size.
pub(super) const TITLE: i32 = 23;
pub(super) const TEXT: i32 = 17;
pub(super) const SMALL: i32 = 15;

/// How a label looks, and which of its points is at its place.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) size: i32,
    pub(super) is_bold: bool,
    pub(super) colour: RGBColor,
    pub(super) anchor: HPos,
}

impl Style {
    pub(super) fn new(size: i32, colour: RGBColor, anchor: HPos) -> Self {
        Self { size, is_bold: false, colour, anchor }
    }

    pub(super) fn bold(self) -> Self {
        Self { is_bold: true, ..self }
    }

    fn text_style(&self) -> TextStyle<'_> {
        let weight = if self.is_bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = (FONT, self.size).into_font().style(weight);
        TextStyle::from(font).color(&self.colour).pos(Pos::new(self.anchor, VPos::Center))
    }
}

/// A part of a canvas with a scale in each direction.
pub(super) struct Plot<'a, C: CoordTranslate> {
    area: DrawingArea<SVGBackend<'a>, C>,
}

impl<'a, X> Plot<'a, Cartesian2d<X, RangedCoordf64>>
where
    X: Ranged<ValueType = f64>,
{
    /// Scales for `across` and `up` over the pixels `columns` and `rows`; `up` grows upwards.
    pub(super) fn new<I: Into<X>>(
        canvas: &Canvas<'a>,
        across: I,
        up: Range<f64>,
        (columns, rows): (Range<i32>, Range<i32>),
    ) -> Self {
        let scales = Cartesian2d::<X, RangedCoordf64>::new(across, up, (columns, rows.end..rows.start));
        Self { area: canvas.apply_coord_spec(scales) }
    }

    pub(super) fn bar(&self, across: Range<f64>, up: Range<f64>, colour: RGBColor) -> Result<()> {
        let corners = [(across.start, up.start), (across.end, up.end)];
        Ok(self.area.draw(&Rectangle::new(corners, colour.filled()))?)
    }

    pub(super) fn line(&self, points: &[(f64, f64)], width: u32, colour: RGBColor) -> Result<()> {
        Ok(self.area.draw(&PathElement::new(points, colour.stroke_width(width)))?)
    }

    pub(super) fn dot(&self, at: (f64, f64), radius: i32, colour: RGBColor) -> Result<()> {
        Ok(self.area.draw(&Circle::new(at, radius, colour.filled()))?)
    }

    /// Text at a place, moved by so many pixels to the right and down.
    pub(super) fn label(&self, at: (f64, f64), moved: (i32, i32), text: &str, style: Style) -> Result<()> {
        let text = Text::new(text.to_owned(), moved, style.text_style());
        Ok(self.area.draw(&(EmptyElement::at(at) + text))?)
    }

    /// Lines at values of the horizontal axis with their labels below, and what they count.
    pub(super) fn axis(
        &self,
        theme: Theme,
        ticks: &[(f64, String)],
        up: Range<f64>,
        (middle, what): (f64, &str),
    ) -> Result<()> {
        let quiet = Style::new(SMALL, theme.quiet, HPos::Center);
        for (value, text) in ticks {
            self.line(&[(*value, up.start), (*value, up.end)], 1, theme.grid)?;
            self.label((*value, up.start), (0, 12), text, quiet)?;
        }
        self.label((middle, up.start), (0, 34), what, quiet)
    }
}

/// A title and the lines below it, at the top of a canvas.
pub(super) fn head(canvas: &Canvas<'_>, theme: Theme, title: &str, lines: &[String]) -> Result<()> {
    write(canvas, (16, 24), title, Style::new(TITLE, theme.text, HPos::Left).bold())?;
    let quiet = Style::new(SMALL, theme.quiet, HPos::Left);
    for (row, line) in (0..).zip(lines) {
        write(canvas, (16, 48 + 19 * row), line, quiet)?;
    }
    Ok(())
}

/// Text at a pixel.
pub(super) fn write(canvas: &Canvas<'_>, at: (i32, i32), text: &str, style: Style) -> Result<()> {
    Ok(canvas.draw(&Text::new(text.to_owned(), at, style.text_style()))?)
}
