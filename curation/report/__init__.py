"""The page that shows what a build has done."""
