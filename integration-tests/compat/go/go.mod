module ottla/compat/go

go 1.26.0
