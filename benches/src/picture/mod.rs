//! Pictures of what was measured, as SVG, each for a light and for a dark page.
//!
//! [`compared`] draws `results.json` of `bench-peers`, [`paths`] `paths.json` of `bench-paths`, and
//! [`growth`] `growth.json` of `bench-growth`. A picture is drawn from its file alone, so that it
//! shows what the tables next to it say.

pub mod compared;
pub mod growth;
pub mod paths;
mod plot;
mod theme;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};

use theme::Theme;

/// The folder of the pictures, within that of the tables.
pub const FOLDER: &str = "pictures";

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What a picture is called, and what it shows in words, for whoever cannot see it.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// The beginning of its files' names.
    pub name: &'static str,
    /// What is written above it.
    pub title: &'static str,
    /// Without quotation marks.
    pub shows: &'static str,
}

impl Picture {
    /// The lines that show it in a document whose folder has [`FOLDER`] at `from`.
    #[must_use]
    pub fn markdown(&self, from: &str) -> String {
        let Self { name, shows, .. } = self;
        format!(
            "<picture>\n\
             <source media=\"(prefers-color-scheme: dark)\" srcset=\"{from}{FOLDER}/{name}-dark.svg\">\n\
             <img alt=\"{shows}\" src=\"{from}{FOLDER}/{name}-light.svg\">\n\
             </picture>\n"
        )
    }

    /// Whether [`FOLDER`] of `folder` has it.
    #[must_use]
    pub fn is_drawn(&self, folder: &Path) -> bool {
        Theme::BOTH.iter().all(|theme| self.file(folder, *theme).is_file())
    }

    fn file(&self, folder: &Path, theme: Theme) -> PathBuf {
        folder.join(FOLDER).join(format!("{}-{}.svg", self.name, theme.name))
    }

    /// Draws it once for each theme, `size` pixels wide and high, with `lines` below its title, into
    /// [`FOLDER`] of `folder`.
    fn draw(
        &self,
        folder: &Path,
        size: (u32, u32),
        lines: &[String],
        drawing: impl Fn(&Canvas<'_>, Theme) -> Result<()>,
    ) -> Result<()> {
        fs::create_dir_all(folder.join(FOLDER))?;
        for theme in Theme::BOTH {
            let file = self.file(folder, theme);
            let mut text = String::new();
            {
                let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
                canvas.fill(&theme.page)?;
                plot::head(&canvas, theme, self.title, lines)?;
                drawing(&canvas, theme)?;
                canvas.present()?;
            }
            fs::write(&file, self.described(&text)).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// The text of an SVG with what it shows as its title.
    fn described(&self, svg: &str) -> String {
        let title = format!(" role=\"img\">\n<title>{}</title>", self.shows);
        svg.replacen('>', &title, 1)
    }
}

/// Reads a file of records; `None` when there is none.
fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    if !file.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not as it is written now", file.display()))
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_for_light_and_dark_pages_with_its_title() {
        let folder = std::env::temp_dir().join(format!("bench-picture-{}", std::process::id()));
        let picture = Picture { name: "nothing", title: "Nothing", shows: "Nothing at all" };

        picture.draw(&folder, (100, 50), &[], |_, _| Ok(())).unwrap();

        let text = |name| fs::read_to_string(folder.join(FOLDER).join(name)).unwrap();
        let (light, dark) = (text("nothing-light.svg"), text("nothing-dark.svg"));
        assert!(light.contains("<title>Nothing at all</title>"), "{light}");
        assert!(light.contains("#FFFFFF") && !dark.contains("#FFFFFF"), "{dark}");
        assert!(picture.markdown("benches/").contains("benches/pictures/nothing-dark.svg"));
        fs::remove_dir_all(folder).unwrap();
    }
}
