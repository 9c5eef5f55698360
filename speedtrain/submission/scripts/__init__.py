"""The two scripts of a packaged submission, which `python -m speedtrain package` puts at the root of the zip."""
