"""The two scripts of a packaged submission. `python -m speedtrain package` puts them at the root of its zip."""
