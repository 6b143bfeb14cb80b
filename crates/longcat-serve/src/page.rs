//! The page: its files, which are in the program.

/// The page itself.
pub(crate) const INDEX: &str = include_str!("../page/index.html");

/// Asks for the token, in browsers that have none.
pub(crate) const TOKEN: &str = include_str!("../page/token.html");

/// A file that the page is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageFile {
    /// Its name; the server has it under `/page/`.
    pub(crate) name: &'static str,
    /// For `Content-Type`.
    pub(crate) media_type: &'static str,
    /// What it holds.
    pub(crate) text: &'static str,
}

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

macro_rules! file {
    ($name:literal, $media_type:expr) => {
        PageFile {
            name: $name,
            media_type: $media_type,
            text: include_str!(concat!("../page/", $name)),
        }
    };
}

const FILES: &[PageFile] = &[
    file!("style.css", STYLE),
    file!("icon.svg", PICTURE),
    file!("adapters.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("compare.js", SCRIPT),
    file!("compose.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("gallery.js", SCRIPT),
    file!("input.js", SCRIPT),
    file!("jobs.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("store.js", SCRIPT),
    file!("viewer.js", SCRIPT),
    file!("words.js", SCRIPT),
];

/// The file of a name.
pub(crate) fn page_file(name: &str) -> Option<&'static PageFile> {
    FILES.iter().find(|file| file.name == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_in_the_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_page = ["index.html", "token.html"].contains(&name.as_str());
            assert!(is_page || page_file(&name).is_some(), "{name}");
        }
    }

    /// What stands between one of `marks` and the next quotation mark.
    fn named<'a>(text: &'a str, marks: &[&str]) -> Vec<&'a str> {
        let after = |mark: &&str| text.split(*mark).skip(1).collect::<Vec<_>>();
        let texts = marks.iter().flat_map(after);
        texts.filter_map(|text| text.split('"').next()).collect()
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_nothing_that_the_policy_forbids() {
        let pages = [("index.html", INDEX), ("token.html", TOKEN)];
        for (page, text) in pages {
            let paths = named(text, &["src=\"", "href=\"/"]);
            for path in paths.into_iter().map(|path| path.trim_start_matches('/')) {
                let name = path.strip_prefix("page/").unwrap_or_default();
                assert!(page_file(name).is_some(), "{page}: {path}");
            }
        }
        let files = FILES.iter().map(|file| (file.name, file.text));
        for (name, text) in files.chain(pages) {
            for forbidden in [
                " style=\"",
                "onclick",
                "<style",
                "javascript:",
                "eval(",
                "innerHTML",
            ] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{name} names another server");
            for module in named(&text, &["from \"./"]) {
                assert!(page_file(module).is_some(), "{name}: {module}");
            }
        }
    }
}
