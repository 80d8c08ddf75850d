"""The application: experiments, their settings and folders, the final table, what is exported. Usable from Python."""
