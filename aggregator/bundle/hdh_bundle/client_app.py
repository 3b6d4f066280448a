from flwr.clientapp import ClientApp

app = (
    ClientApp()
)  # answers nothing: our nodes run the ClientApp that they have installed, and fetch no bundle
