"""Studies in Python: `import federation as fed`.

A study is written as a value (`fed.Study`), runs on data frames as nodes (`fed.simulate`) or at a
hub (`fed.connect`), and its result is a set of data frames and figures. federation/__init__.py
lists the names."""
