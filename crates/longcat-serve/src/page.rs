//! The page: its files, which are in the program.

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageFile {
    /// Its path on the server.
    pub(crate) path: &'static str,
    /// For `Content-Type`.
    pub(crate) media_type: &'static str,
    /// What it holds.
    pub(crate) text: &'static str,
}

/// For `Content-Security-Policy`: everything that the page shows or runs is the server's, but for the uploads
/// that it shows before they are sent.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file under `/page/`.
macro_rules! file {
    ($name:literal, $media_type:expr) => {
        PageFile {
            path: concat!("/page/", $name),
            media_type: $media_type,
            text: include_str!(concat!("../page/", $name)),
        }
    };
}

/// All files. The page itself is the first.
pub(crate) const FILES: &[PageFile] = &[
    PageFile {
        path: "/",
        media_type: HTML,
        text: include_str!("../page/index.html"),
    },
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

/// The file at a path.
pub(crate) fn page_file(path: &str) -> Option<&'static PageFile> {
    FILES.iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_in_the_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| match name.as_str() {
                "index.html" => "/".to_string(),
                name => format!("/page/{name}"),
            })
            .collect();
        names.sort();
        let mut paths: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        paths.sort_unstable();
        assert_eq!(names, paths);
    }

    /// What a file names in quotes after one of `marks`.
    fn named<'a>(text: &'a str, marks: &[&str]) -> Vec<&'a str> {
        let after = |mark: &&str| text.split(*mark).skip(1).collect::<Vec<_>>();
        let texts = marks.iter().flat_map(after);
        texts.map(|text| text.split('"').next().unwrap()).collect()
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_nothing_that_the_policy_forbids() {
        let page = page_file("/").unwrap();
        for path in named(page.text, &["src=\"", "href=\"/"]) {
            let path = format!("/{}", path.trim_start_matches('/'));
            assert!(page_file(&path).is_some(), "{path}");
        }
        for file in FILES {
            for forbidden in [" style=\"", "onclick", "<style", "javascript:", "eval(", "innerHTML"] {
                assert!(!file.text.contains(forbidden), "{}: {forbidden}", file.path);
            }
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{} names another server", file.path);
            if file.media_type == SCRIPT {
                for module in named(file.text, &["from \"./"]) {
                    let path = format!("/page/{module}");
                    assert!(page_file(&path).is_some(), "{}: {path}", file.path);
                }
            }
        }
    }
}
