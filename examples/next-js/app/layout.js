import './style.css'

export const metadata = { title: 'Todos, live' }

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  )
}
